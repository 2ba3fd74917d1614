"""Commands for what is in use: serve, keys for it, and what people said of its answers."""

from __future__ import annotations

import getpass
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from trunkline.commands.shared import commands, flags_of
from trunkline.errors import OptionError
from trunkline.serving.settings import ServeSettings


@commands.command()
@click.argument("folders", nargs=-1)
@click.option("--model", help="the backbone, where it is not found under the name it was tuned with")
@partial(flags_of, kind=ServeSettings)
def serve(folders: tuple[str, ...], model: str | None, **told: Any) -> None:
    """Serve the branches in FOLDERS over HTTP, each under the name of its folder, until Ctrl-C or SIGTERM."""
    settings = ServeSettings(**{name: value[0] for name, value in told.items() if isinstance(value, tuple)})
    module = import_module("trunkline.serving.serve")
    store = import_module("trunkline.feedback.store").FeedbackStore(settings.feedback) if settings.feedback else None
    module.log_to_stderr()
    module.serve(folders, settings=settings, model=model, store=store, say=click.echo)


@commands.command()
@click.argument("file")
@click.option("--name", required=True, help="who the key is for: shown in logs, kept with feedback")
@click.option("--scope", "scopes", multiple=True, help="infer, feedback or admin; may be given several times  [default: infer]")
def keys(file: str, name: str, scopes: tuple[str, ...]) -> None:
    """Add an API key for `serve` to FILE, and print it: FILE keeps its SHA-256 only, so it is not seen again."""
    click.echo(import_module("trunkline.serving.edge.keys").add_key(Path(file), name, scopes or ("infer",)))


@commands.group()
def feedback() -> None:
    """What was served and what people said of it: look at a store, export it to learn from, forget a person, back it up.

    STORE is the path of a file, or postgresql://user@host/database.
    """


@feedback.command("stats")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="print the counts as JSON")
def feedback_stats(store: str, as_json: bool) -> None:
    """Count what is in STORE, by branch."""
    with _feedback(store) as opened:
        found = opened.stats()
    click.echo(json.dumps(found, indent=2) if as_json else import_module("trunkline.console").feedback(found))


@feedback.command("export")
@click.argument("store")
@click.option("--form", default="rows", show_default=True, help="rows for tune; pairs or liked answers for align")
@click.option("--branch", help="of this branch only")
@click.option("--upto", type=int, help="of entries up to this number, to make an earlier export again")
@click.option("--out", required=True, help="the file to write, JSON Lines")
def feedback_export(store: str, form: str, branch: str | None, upto: int | None, out: str) -> None:
    """Write what people said as training data."""
    with _feedback(store) as opened:
        made = import_module("trunkline.feedback.export").export(opened, form, branch=branch, upto=upto)
    import_module("trunkline.storage").write_file(Path(out), made.to_bytes())
    click.echo(f"{len(made.rows):,} rows from entries up to {made.last:,} written to {out}. SHA-256 {made.id}", err=True)
    if form == "rows" and made.rows:
        click.echo(f"\nNext:\n  trunkline tune {shlex.quote(out)} --id id --group group --out runs/next", err=True)


@feedback.command("verify")
@click.argument("store")
@click.argument("ids", nargs=-1)
def feedback_verify(store: str, ids: tuple[str, ...]) -> None:
    """Read all of STORE and compare every hash; and that IDS, which somebody kept, are in its history."""
    with _feedback(store) as opened:
        found = opened.verify(ids)
    click.echo(
        f"{found.events:,} events, {found.entries:,} entries, {found.forgotten:,} of them forgotten: all as written. Last: {found.head}"
    )


@feedback.command("forget")
@click.argument("store")
@click.argument("person")
@click.option("--states", "branches", multiple=True, help="folder of a branch whose stored states go too; may be given several times")
@click.option("--yes", is_flag=True, help="do not ask")
def feedback_forget(store: str, person: str, branches: tuple[str, ...], yes: bool) -> None:
    """Remove for good all that was said by or about PERSON. Exports and backups made before still hold it: make them anew."""
    if not yes:
        click.confirm(f"Remove all that {person!r} said, or that is about them, from {store}? It cannot be undone.", abort=True)
    loaded = [import_module("trunkline.branch").load(folder) for folder in branches]
    remove = import_module("trunkline.feedback.states").forget_states if loaded else None
    with _feedback(store) as opened:
        count = opened.forget(
            person, who=getpass.getuser(), states=lambda found: [remove(one, found) for one in loaded] if remove else None
        )
    click.echo(f"{count:,} entries are forgotten. Exports and backups that were made before still hold them: make them anew.")


@feedback.command("backup")
@click.argument("store")
@click.argument("out")
def feedback_backup(store: str, out: str) -> None:
    """Copy STORE into the new file OUT while others write to it, and verify the copy."""
    found = import_module("trunkline.feedback.backup").backup(store, out)
    click.echo(f"{found.events:,} events copied to {out} and verified. Last: {found.head}")


@contextmanager
def _feedback(place: str) -> Iterator[Any]:
    """An existing feedback store, closed at the end."""
    if "://" not in place and not Path(place).is_file():
        raise OptionError(f"{place}: does not exist, and so is no feedback store. `trunkline serve ... --feedback FILE` makes one.")
    opened = import_module("trunkline.feedback.store").FeedbackStore(place)
    try:
        yield opened
    finally:
        opened.close()
