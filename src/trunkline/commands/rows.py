"""Commands for rows: what is in a file, what is wrong with it, labels, new rows, and large raw text."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from trunkline import names
from trunkline.augmentation.settings import AugmentSettings
from trunkline.commands.shared import chosen, commands, flags_of, listed, parts_of, read, reading
from trunkline.corpus.settings import CleanSettings
from trunkline.errors import OptionError
from trunkline.model.standard import ENCODER


@commands.command()
@click.argument("file")
@click.option("--task", help=f"{listed(names.TASKS)}, with options as in classify:max_tokens=64  [default: classify]")
@click.option("--model", help="also count the tokens of this model, and what would be cut")
@click.option("--validation-file", help="rows to choose by, instead of a share of FILE")
@click.option("--test-file", help="rows to measure on, instead of a share of FILE")
@click.option("--drop-leaks", is_flag=True, help="take rows out of train whose text stands in validation or test too")
@click.option(
    "--apply", "changes", help="a file of changes that `trunkline check` wrote and a person decided on: make those, and write --out"
)
@click.option("--out", help="where the changed rows are written (.csv or .jsonl)")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@reading
@partial(flags_of, only=("validation", "test", "split", "seed"))
def prepare(file: str, changes: str | None, out: str | None, as_json: bool, **told: Any) -> None:
    """Show what is understood of FILE before anything is trained: rows, labels, lengths, the split, and what looks wrong."""
    if bool(changes) != bool(out):
        raise OptionError("--apply and --out go together: --apply changes.csv --out cleaned.csv")
    if changes and out:
        _apply(file, changes, out, told)
        return
    told, settings = chosen(told, None)
    data = parts_of(file, told["task"], told, settings, say=False)
    module = import_module("trunkline.data.prepare")
    if not hasattr(data, "parts"):
        by = {"validation": settings.validation, "test": settings.test, "by": settings.split, "seed": settings.seed}
        data = import_module("trunkline.data.split").split(data, **by)
    found = module.prepare(data)
    if told["model"]:
        found = import_module("trunkline.train.lengths").in_tokens(found, told["model"], task_options=settings.task_options)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else str(found))
    words = [word for word in sys.argv[1:] if word != "--json"]
    words = ["trunkline", "tune", *words[words.index("prepare") + 1 :], *found.remedies, "--out", module.runs_folder(file)]
    click.echo(f"\nNext:\n  {shlex.join(words)}", err=True)


def _apply(file: str, changes: str, out: str, told: dict[str, Any]) -> None:
    """`prepare --apply`: the decided changes, and nothing else."""
    module = import_module("trunkline.quality.changes")
    rows = module.apply(read(file, (told["task"] or "classify").partition(":")[0], told), changes)
    module.save(rows, out)
    click.echo(rows.notes[-1])
    click.echo(f"\nSaved in {out}. Next:\n  {shlex.join(['trunkline', 'check', out])}", err=True)


@commands.command()
@click.argument("file")
@click.option("--against", help="the rows that will be measured on: what stands in both is a leak")
@click.option("--task", default="classify", show_default=True, help=listed(names.TASKS))
@click.option("--model", help=f"whose states say what a text means; none: words alone  [default: {ENCODER}]")
@click.option("--out", help="folder for check.html, changes.csv and check.json  [default: runs/NAME-check]")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="of the page")
@click.option("--seed", default=0, show_default=True, help="which rows are held out together, and which are drawn")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@reading
def check(
    file: str, against: str | None, task: str, model: str | None, out: str | None, language: str, seed: int, as_json: bool, **told: Any
) -> None:
    """Look for what is wrong in FILE, row by row: copies, leaks, wrong labels, odd texts, personal data. Nothing is changed."""
    rows = read(file, task, told)
    other = read(against, task, told) if against else None
    found_by = None if model == "none" else import_module("trunkline.quality.vectors").vectors(rows, other or (), model=model, seed=seed)
    found = import_module("trunkline.quality.check").check(rows, found_by, against=other, seed=seed)
    folder = Path(out or import_module("trunkline.data.prepare").runs_folder(file) + "-check")
    told_to = {"label": told["label"], "text": told["text"], "text-b": told["text_b"], "id": told["id"]}
    flags = [word for name, value in told_to.items() if value for word in (f"--{name}", value)]
    flags += ["--task", task] if task != "classify" else []
    command = shlex.join(["trunkline", "prepare", file, *flags, "--apply", str(folder / "changes.csv"), "--out", "cleaned.csv"])
    import_module("trunkline.quality.page").save(found, folder, language, command=command)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else str(found))
    click.echo(
        f"\nLook at {folder / 'check.html'}. Write yes beside what you want in {folder / 'changes.csv'}, then:\n  {command}", err=True
    )


@commands.command()
@click.argument("file")
@click.argument("live")
@click.option("--branch", help="folder of a branch: its answers to both files are compared, and how sure they are")
@click.option("--model", help=f"whose states say what a text means  [default: {ENCODER}]")
@click.option("--out", help="folder for drift.html and drift.json  [default: runs/NAME-drift, of LIVE]")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="of the page")
@click.option("--seed", default=0, show_default=True, help="which rows are drawn, and the permutations of the test")
@click.option("--json", "as_json", is_flag=True, help="print what was found as JSON")
@reading
def drift(
    file: str, live: str, branch: str | None, model: str | None, out: str | None, language: str, seed: int, as_json: bool, **told: Any
) -> None:
    """Has what comes in changed? Compare the rows of LIVE with those of FILE, which a branch was tuned on. Nothing is changed."""
    rows, new = (read(one, "classify", {**told, "several": True}, labelled=False) for one in (file, live))
    loaded = import_module("trunkline.branch").load(branch) if branch else None
    if loaded and loaded.spec.kind != "single":
        raise OptionError(f"--branch {branch}: it is for {loaded.task!r}. Give one that says one label of a text.")
    answers = (loaded.predict(rows), loaded.predict(new)) if loaded else None
    found_by = import_module("trunkline.quality.vectors").vectors(rows, new, model=model, seed=seed)
    found = import_module("trunkline.quality.drift").drift(rows, new, found_by, answers=answers, seed=seed)
    folder = Path(out or import_module("trunkline.data.prepare").runs_folder(live) + "-drift")
    import_module("trunkline.quality.drift_page").save(found, folder, language)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else str(found))
    after = ["label", live] if found.changed else ["drift", file, "LATER"]
    click.echo(f"\nLook at {folder / 'drift.html'}. Next:\n  {shlex.join(['trunkline', *after])}", err=True)


@commands.command("label")
@click.argument("file")
@click.option("--labels", "known", help="the labels to choose from, with commas between them; people may add some")
@click.option("--branch", help="folder of a branch whose answers are suggested")
@click.option("--model", help=f"whose states decide what comes next  [default: {ENCODER}]")
@click.option("--strategy", default="safe", show_default=True, help="what comes next: docs/label.md lists them")
@click.option("--people", default=1, show_default=True, help="how many people should label each row")
@click.option("--out", help="folder of annotations.jsonl and labelled.csv  [default: runs/NAME-label]")
@click.option("--port", default=0, show_default=True, help="0: a free one")
@click.option("--import", "imported", help="an export of Label Studio or doccano, to take labels over from")
@click.option("--export", help="also write this file when done: .json for Label Studio, .jsonl for doccano")
@reading
def label_(
    file: str, known: str | None, branch: str | None, model: str | None, strategy: str, people: int, out: str | None, port: int,
    imported: str | None, export: str | None, **told: Any,
) -> None:  # fmt: skip
    """Label the rows of FILE on a page on this machine, those first that are worth most. Goes on where it was stopped."""
    if export and Path(export).suffix not in (".json", ".jsonl"):
        raise OptionError(f"--export {export}: name a .json file (Label Studio) or a .jsonl file (doccano).")
    rows = read(file, "classify", told, labelled=False)
    folder = Path(out or import_module("trunkline.data.prepare").runs_folder(file) + "-label")
    module = import_module("trunkline.labelling.label")
    loaded = import_module("trunkline.branch").load(branch) if branch else None
    chosen = tuple(name.strip() for name in (known or "").split(",") if name.strip())
    done = module.label(
        rows, folder, model=model, names=chosen, branch=loaded, strategy=strategy, people=people, port=port, imported=imported
    )
    if export:
        module.export(rows, folder, export)
    click.echo(f"{len(done):,} of {len(rows):,} rows have a label.")
    if len(done):
        click.echo(f"\nNext:\n  {shlex.join(['trunkline', 'check', str(folder / module.LABELLED)])}", err=True)


@commands.command()
@click.argument("file")
@click.option("--out", required=True, help="write all rows to this .jsonl or .csv file, each with its split; then: tune OUT --split given")
@click.option("--task", default="classify", show_default=True, help="classify or regress")
@click.option("--model", help=f"whose states judge what new rows mean  [default: {ENCODER}]")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@reading
@partial(flags_of, kind=AugmentSettings)
def augment(file: str, out: str, task: str, model: str | None, as_json: bool, **told: Any) -> None:
    """Make new training rows of FILE's training rows, keep those that mean the same, and measure whether they help."""
    settings = AugmentSettings(**{name: value[0] for name, value in told.items() if isinstance(value, tuple)})
    made = import_module("trunkline.augmentation.augment").augment(read(file, task, told), model, settings=settings)
    import_module("trunkline.augmentation.write").write(made, Path(out))
    click.echo(json.dumps(made.to_json(), ensure_ascii=False, indent=2) if as_json else str(made))
    click.echo(f"\n{len(made.new):,} new rows are in {out}. Next:\n  trunkline tune {out} --task {task} --split given", err=True)


@commands.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, help="folder for the result; also where a stopped run goes on from")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
@partial(flags_of, kind=CleanSettings)
def clean(files: tuple[str, ...], out: str, as_json: bool, **told: Any) -> None:
    """Clean large text FILES (.txt, .jsonl, .parquet; .gz, .zst): repair, filter, deduplicate, and count every drop."""
    settings = CleanSettings(**{name: value[0] for name, value in told.items() if value is not None})
    report = import_module("trunkline.corpus.clean").clean(files, out, settings)
    click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else str(report))
    click.echo(f"\nSaved in {out}. What was dropped, and why: {Path(out) / 'samples.jsonl'}", err=True)
