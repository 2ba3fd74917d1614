"""The verb `clean`: large files of raw text to documents worth training on, with an account of every one that was dropped.

    judge       each document by itself: repair, language, rules, words, personal data        (in processes, a part for each chunk)
    compare     exact and near-duplicates over all of them                                    (one process, a band at a time)
    ask         a quality branch and a toxicity branch, on what is left
    balance     no domain over its share
    write       what is kept, a sample of what is not, and the report

Everything that takes long leaves its result in OUT/.work, whole or absent, so that the same command goes on after a kill. The result
depends on the files and the settings, never on the number of workers or on interruptions.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from trunkline import __version__, storage
from trunkline.corpus.balance import domain_of, dropped_for_balance, most_each
from trunkline.corpus.duplicates import Duplicates, duplicates
from trunkline.corpus.files import Chunk, chunks, form_of
from trunkline.corpus.judge import check_packages
from trunkline.corpus.parts import Counts, Parts, read_counts
from trunkline.corpus.pool import judged
from trunkline.corpus.report import Cleaned
from trunkline.corpus.scores import key, scorer, scores
from trunkline.corpus.settings import CleanSettings
from trunkline.corpus.write import write
from trunkline.errors import ArtefactError, DataError, OptionError
from trunkline.progress import Bar

REPORT, SAMPLES, WORK, PLAN = "report.json", "samples.jsonl", ".work", "plan.json"
KEPT, EXACT, NEAR, QUALITY, TOXIC, BALANCE = range(6)
_REASONS = {EXACT: "exact_duplicate", NEAR: "near_duplicate", QUALITY: "quality_branch", TOXIC: "toxicity_branch", BALANCE: "balance"}


def clean(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], settings: CleanSettings | None = None
) -> Cleaned:
    """Clean text files (.txt, .jsonl, .parquet; .gz, .zst) into the folder `out`: data-*.jsonl, samples.jsonl, report.json.

    A run that was stopped goes on where it was; one that is done gives its report again.
    Raises: DataError for files that cannot be read or where nothing is left; OptionError when `out` holds a run with other files or
    settings; ArtefactError when it holds something else; MissingExtra without ftfy and py3langid.
    """
    settings = settings or CleanSettings()
    check_packages()
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if not paths:
        raise OptionError("no files: name at least one.")
    for path in paths:
        form_of(path)
    folder, plan = Path(out), _plan(paths, settings)
    if (folder / REPORT).is_file():
        return _done(folder, plan)
    _begin(folder, plan)
    with _alone(folder):
        began = time.monotonic()
        counts, parts = _judge(paths, folder / WORK, settings)
        with closing(parts):
            report = _compare(paths, folder, settings, plan, counts, parts)
        report.seconds = round(time.monotonic() - began, 1)
        storage.write_file(folder / REPORT, storage.to_json({**report.to_json(), "plan": plan}))
        storage.remove_folder(folder / WORK)
        return report


def _compare(paths: list[Path], folder: Path, settings: CleanSettings, plan: dict[str, Any], counts: Counts, parts: Parts) -> Cleaned:
    """What all documents say of each other, and what is kept in the end, written."""
    work = folder / WORK
    fates, found, domains, notes = _fates(paths, parts, work, settings)
    for code, reason in _REASONS.items():
        if number := int((fates == code).sum()):
            counts.dropped[reason] = number
    _sample_fates(counts, parts, fates, settings)
    kept: Counter[str] = Counter()
    outputs = write(folder, _records(parts, fates, settings.text, kept), settings.form, settings.text)
    report = Cleaned(
        counts.read, int((fates == KEPT).sum()), dict(counts.dropped), kept["characters"],
        {name: n for name, n in counts.done.items() if not name.startswith("personal:")},
        {name.removeprefix("personal:"): n for name, n in counts.done.items() if name.startswith("personal:")},
        dict(counts.languages.most_common(30)), {"compared": found.compared, "passed_over": found.passed_over}, dict(domains.most_common(50)),
        [{**file, "read": counts.files[str(number)]} for number, file in enumerate(plan["files"])], outputs, plan["settings"],
        notes=notes,
    )  # fmt: skip
    storage.write_file(folder / SAMPLES, _samples(counts, parts, fates, found, paths, settings))
    return report


def _plan(paths: list[Path], settings: CleanSettings) -> dict[str, Any]:
    """What decides the result: settings, branches, and the files by name, size and time of change."""
    stats = [(path, path.stat()) for path in paths]
    return {
        "trunkline": __version__,
        "settings": settings.to_json(),
        "branches": [key(settings.quality_branch), key(settings.toxicity_branch)],
        "files": [{"path": str(path), "bytes": stat.st_size, "changed": int(stat.st_mtime)} for path, stat in stats],
    }


def _done(folder: Path, plan: dict[str, Any]) -> Cleaned:
    where = folder / REPORT
    try:
        report = Cleaned.from_json(where.read_bytes(), str(where))
        there = storage.from_json(where.read_bytes(), str(where)).get("plan")
    except (ValueError, TypeError, AttributeError, DataError) as error:
        raise ArtefactError(f"{where}: not the report of a run of clean ({error}). Choose another folder.") from error
    _same(folder, there, plan, "a run")
    return report


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    where = folder / WORK / PLAN
    if where.is_file():
        try:
            there = storage.from_json(where.read_bytes(), str(where))
        except ValueError as error:
            raise ArtefactError(f"{where}: not the plan of a run of clean ({error}). Choose another folder, or delete this one.") from error
        _same(folder, there, plan, "a run that was stopped,")
    elif folder.exists() and any(entry.name != WORK for entry in folder.iterdir()):
        raise ArtefactError(f"{folder}: exists and holds no run of clean. Choose another folder.")
    else:
        storage.write_file(where, storage.to_json(plan))


def _same(folder: Path, there: Any, asked: dict[str, Any], what: str) -> None:
    if there == asked:
        return
    if not isinstance(there, dict) or there.keys() != asked.keys() or not isinstance(there["settings"], dict):
        raise ArtefactError(f"{folder}: what it holds says not what it was made of, so it is no run of this clean. Choose another folder.")
    odd = [name for name, value in asked["settings"].items() if there["settings"].get(name) != value]
    odd = odd or [name for name in ("files", "branches", "trunkline", "settings") if there[name] != asked[name]]
    raise OptionError(f"{folder}: holds {what} with other {', '.join(odd)}. Give the same again, another folder, or delete this one.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second process works in this folder. Raises: OptionError where one does."""
    descriptor = os.open(folder / WORK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OptionError(f"{folder}: another process works there. Wait for it, or choose another folder.") from error
    finally:
        os.close(descriptor)


def _judge(paths: list[Path], work: Path, settings: CleanSettings) -> tuple[Counts, Parts]:
    """Every document judged by itself: what parts are there from before is read, the others are made."""
    total, sizes = Counts(), []
    numbers: list[int] = []
    with Bar("judging", unit="documents") as bar:
        for chunk in judged(work, settings, _todo(chunks(paths, settings.divide), work, numbers)):
            bar.to(chunk.file, len(paths), f"part {chunk.number + 1:,} of file {chunk.file + 1:,}")
    for number in numbers:
        counts, kept = read_counts(work, number) or (Counts(), 0)
        total.add(counts, settings.samples)
        sizes.append(kept)
    if not total.read:
        raise DataError(f"{paths[0]}: no documents. Look at the files and at `divide`.")
    return total, Parts(work, sizes, settings)


def _todo(found: Iterable[Chunk], work: Path, numbers: list[int]) -> Iterator[Chunk]:
    for chunk in found:
        numbers.append(chunk.number)
        if read_counts(work, chunk.number) is None:
            yield chunk


def _fates(paths: list[Path], parts: Parts, work: Path, settings: CleanSettings) -> tuple[np.ndarray, Duplicates, Counter[str], list[str]]:
    """(N,) uint8: what becomes of each document that was good by itself; the duplicates; documents a domain; notes."""
    found = _duplicates(parts, work, settings)
    fates = np.where(found.stays, np.uint8(KEPT), np.where(found.exact, np.uint8(EXACT), np.uint8(NEAR)))
    asked = (
        (settings.quality_branch, settings.quality_label, "quality", QUALITY, lambda p: p < settings.keep_above),
        (settings.toxicity_branch, settings.toxicity_label, "toxicity", TOXIC, lambda p: p >= settings.drop_above),
    )
    for folder, label, name, code, bad in asked:
        if folder is not None:
            given = scores(parts, fates == KEPT, name, partial(scorer, folder, label), settings.text)
            fates[(fates == KEPT) & bad(given)] = code
    return (fates, found, *_balance(paths, parts, fates, settings))


def _duplicates(parts: Parts, work: Path, settings: CleanSettings) -> Duplicates:
    path = work / "duplicates.safetensors"
    if path.is_file():
        arrays = safetensors.numpy.load(path.read_bytes())
        return Duplicates(arrays["first"], arrays["exact"].astype(bool), *map(int, arrays["counts"]))
    found = duplicates(parts, settings.near)
    arrays = {"first": found.first, "exact": found.exact.astype(np.uint8), "counts": np.array([found.compared, found.passed_over])}
    storage.write_file(path, safetensors.numpy.save(arrays))
    return found


def _balance(paths: list[Path], parts: Parts, fates: np.ndarray, settings: CleanSettings) -> tuple[Counter[str], list[str]]:
    """Drop what is over its domain's share, in `fates`; gives the documents a domain that are left, and what could not be done."""
    if settings.domain is None:
        return Counter(), []
    ids: dict[str, int] = {}
    domains, at = np.empty(len(parts), dtype=np.int32), 0
    for number in range(parts.count):
        for file, _, record in parts.part(number):
            domains[at] = ids.setdefault(domain_of(record, settings.domain, paths[file]), len(ids))
            at += 1
    names, kept, notes = list(ids), np.flatnonzero(fates == KEPT), []
    counts = Counter({names[one]: int(n) for one, n in enumerate(np.bincount(domains[kept], minlength=len(ids))) if n})
    if settings.domain_most is not None and len(kept):
        most = most_each(counts, settings.domain_most)
        if not most:
            most = min(counts.values())
            notes.append(
                f"{len(counts)} domains cannot each have at most {settings.domain_most:.1%}: all were cut to the smallest, {most:,} documents."
            )
        chance = np.concatenate([piece[:, 1] for piece in parts.digests()])[kept] ^ np.uint64(settings.seed)
        fates[kept[dropped_for_balance(domains[kept], chance, most)]] = BALANCE
        counts = Counter({name: min(count, most) for name, count in counts.items()})
    return counts, notes


def _records(parts: Parts, fates: np.ndarray, text: str, kept: Counter[str]) -> Iterator[tuple[dict[str, Any], int]]:
    at = 0
    for number in range(parts.count):
        for _, _, record in parts.part(number):
            if fates[at] == KEPT:
                kept["characters"] += len(record[text])
                yield record, len(record[text].encode("utf-8", "surrogatepass"))
            at += 1


def _sample_fates(counts: Counts, parts: Parts, fates: np.ndarray, settings: CleanSettings) -> None:
    """A few documents of each reason that was found by comparing: those that a fixed chance puts first."""
    for code, reason in _REASONS.items():
        places = np.flatnonzero(fates == code)
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(places)[: settings.samples])
        for index in map(int, chosen):
            file, place, record = parts.document(index)
            counts.samples.setdefault(reason, []).append([index, file, place, record[settings.text][:500]])


def _samples(counts: Counts, parts: Parts, fates: np.ndarray, found: Duplicates, paths: list[Path], settings: CleanSettings) -> bytes:
    """JSON Lines: reason, file, place and text of the samples; of a duplicate also the document that it repeats."""
    compared, lines = {_REASONS[EXACT], _REASONS[NEAR]}, []
    for reason, samples in sorted(counts.samples.items()):
        for number, file, place, text in samples[: settings.samples]:
            line = {"reason": reason, "file": str(paths[file]), "place": place, "text": text}
            if reason in compared:
                other, row, record = parts.document(int(found.first[number]))
                line |= {"like": {"file": str(paths[other]), "place": row, "text": record[settings.text][:500]}}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode("utf-8", "backslashreplace")
