"""Patterns with check digits: every published example is found, the same number with one digit changed is not."""

import time

import pytest

from trunkline.data.personal import KINDS, find, is_card, is_chinese_id, is_iban, mask
from trunkline.errors import OptionError

IBANS = [
    "GB82WEST12345698765432", "DE89370400440532013000", "FR1420041010050500013M02606", "NL91ABNA0417164300", "ES9121000418450200051332",
    "IT60X0542811101000000123456", "CH9300762011623852957", "NO9386011117947", "BE68539007547034", "PL61109010140000071219812874",
]  # fmt: skip
CARDS = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "6011111111111117",
    "3530111333300000",
    "30569309025904",
    "6250941006528599",
]


def kinds(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in find(text)]


@pytest.mark.parametrize("number", IBANS)
def test_ibans_of_the_registry(number: str) -> None:
    grouped = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    assert kinds(f"账号{number}。") == [("iban", number)]
    assert kinds(f"pay to {grouped}.") == [("iban", grouped)]
    other = str((int(number[-1]) + 1) % 10)
    assert not is_iban(number[:-1] + other)


@pytest.mark.parametrize("number", CARDS)
def test_cards(number: str) -> None:
    grouped = "-".join(number[at : at + 4] for at in range(0, len(number), 4))
    assert kinds(f"my card {number}, please") == [("card", number)]
    assert is_card(grouped)
    wrong = [number[:at] + str((int(number[at]) + 1) % 10) + number[at + 1 :] for at in range(len(number))]
    assert not [one for one in wrong if is_card(one)]  # one wrong digit is always seen: what the check is for
    assert ("card", number) not in kinds(f"9{number}")


def test_chinese_identity_numbers() -> None:
    assert kinds("身份证11010519491231002X号") == [("chinese_id", "11010519491231002X")]
    assert not is_chinese_id("990105194912310025")  # no such province
    assert not is_chinese_id("11010519490231002X")  # 31 February
    right = [n for n in range(10) if is_chinese_id(f"44030619900307123{n}")]
    assert len(right) + is_chinese_id("44030619900307123X") == 1  # one check character of eleven


@pytest.mark.parametrize(
    "number",
    ["13812345678", "+86 138 1234 5678", "138-1234-5678", "010-62345678", "0755 8234567", "+44 20 7946 0958", "+1 (212) 555-0123", "(212) 555-0123",
     "212-555-0123", "+49 30 901820"],
)  # fmt: skip
def test_phones(number: str) -> None:
    assert kinds(f"call {number} today") == [("phone", number)]
    assert kinds(f"电话：{number}，谢谢") == [("phone", number)]


def test_mail_in_chinese_and_in_full_width() -> None:
    assert kinds("请发到zhang.san@example.com.cn谢谢") == [("mail", "zhang.san@example.com.cn")]
    assert kinds("１３８１２３４５６７８") == [("phone", "１３８１２３４５６７８")]
    assert kinds("ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ") == [("mail", "ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ")]


@pytest.mark.parametrize(
    "text",
    ["in 1998-2004 about 1,234,567,890 people", "order 4111111111111112", "3.14159265358979", "version 127.0.0.1", "2024-01-31 14:05:00", "@user",
     "a @ b", "120-130", "ISBN 978-3-16-148410-0", "id 138123456789", "http://x/13812345678901234567", "300.1.2.3"],
)  # fmt: skip
def test_other_numbers_are_let_alone(text: str) -> None:
    assert find(text) == []


def test_mask_and_kinds() -> None:
    text = "li@example.com, 13812345678, 192.168.1.20 and GB82 WEST 1234 5698 7654 32"
    assert mask(text) == "[mail], [phone], [ip] and [iban]"
    assert mask(text, ["mail"]).startswith("[mail], 138")
    assert find("nothing here") == []
    with pytest.raises(OptionError, match="mial"):
        find(text, ["mial"])
    assert set(KINDS) >= {"mail", "phone", "card", "iban", "chinese_id"}


@pytest.mark.parametrize(
    "text", ["1" * 200_000, "a." * 100_000 + "@", "12 " * 70_000, "+1 " * 70_000, "GB82 " * 40_000, "1-" * 100_000, "a@a." * 50_000]
)
def test_any_text_is_read_in_linear_time(text: str) -> None:
    before = time.process_time()
    find(text)
    assert time.process_time() - before < 2
