"""The command line: `trunkline VERB THING --option value`. Each command reads its words and calls the function of its name.

Starts without torch: what computes is imported when a command runs. Results go to stdout (a table, or JSON with --json), progress
and notes to stderr. Exit: 0 done, 1 an error of ours (one line), 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from trunkline.commands import branches, rows, service  # noqa: F401  (each adds its commands to the group)
from trunkline.commands.shared import commands
from trunkline.errors import TrunklineError


def main() -> NoReturn:
    """The entry point: runs a command and turns our errors into one line and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make a busy machine up to 25 times slower
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, _stop)
    try:
        commands(prog_name="trunkline", standalone_mode=False)
        sys.exit(0)
    except TrunklineError as error:
        click.echo(f"trunkline: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:  # click makes an Abort of both, and keeps which as its cause
        by, code = (" by SIGTERM", 143) if isinstance(error.__cause__ or error, _TerminatedError) else ("", 130)
        click.echo(f"trunkline: stopped{by}. {_kept(sys.argv[1:2])}", err=True)
        sys.exit(code)


def _kept(command: list[str]) -> str:
    """What a stopped command leaves. A server that listens ends by itself; here it comes with a signal before that or behind it."""
    if command == ["serve"]:
        return "No request is open. The same command starts the server again."
    return "What was finished is kept: run the same command again to go on."


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, handled wherever Ctrl-C is."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


if __name__ == "__main__":
    main()
