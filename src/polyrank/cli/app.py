"""The command line: registers the commands, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 something failed, 2 the call was wrong, 3 a quality gate refused, 130 stopped
by Ctrl-C.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from polyrank.cli import screen
from polyrank.cli.bulk import bulk_app
from polyrank.cli.calibrate import calibrate_command
from polyrank.cli.classify import classify
from polyrank.cli.compress import compress_app
from polyrank.cli.doctor import doctor
from polyrank.cli.embed import embed
from polyrank.cli.evaluate import evaluate_command
from polyrank.cli.index import index
from polyrank.cli.info import info
from polyrank.cli.needs import EXTRA_OF_COMMAND, needing
from polyrank.cli.rerank import rerank
from polyrank.cli.search import search
from polyrank.cli.serve import ENVIRONMENT_PREFIX, ignore_service_links, serve
from polyrank.cli.settings import settings
from polyrank.cli.train import train_app
from polyrank.errors import ConfigError, PolyrankError

FAILED, WRONG_CALL = 1, 2

app = typer.Typer(
    name="polyrank",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)
app.command("rerank")(rerank)
app.command("embed")(embed)
app.command("classify")(classify)
app.command("eval")(evaluate_command)
app.command("serve", context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX})(serve)
app.command("info")(info)
app.add_typer(bulk_app)
app.command("index")(index)
app.command("search")(search)
app.add_typer(compress_app)
app.add_typer(train_app)
app.command("calibrate")(calibrate_command)
app.command("settings")(settings)
app.command("doctor")(doctor)
needing(app, EXTRA_OF_COMMAND)


def _show_version(wanted: bool) -> None:
    if wanted:
        import polyrank

        sys.stdout.write(f"polyrank {polyrank.__version__}\n")
        raise typer.Exit


@app.callback()
def polyrank_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Rerank, embed and classify text in 100+ languages.

    Start with `polyrank rerank "How long do cats live?" FILE`, where FILE holds one text a line.
    """
    ignore_service_links()


def run() -> None:
    """Run the command that was typed. Errors that polyrank expects never show a traceback."""
    _stand_in_for_closed_streams()
    try:
        # of commands that load several models; those that load one say it at once
        with (
            screen.assumptions_as_remarks(quiet="--quiet" in sys.argv),
            _naming_standard_output(),
        ):
            app()
    except ConfigError as exc:
        _fail(str(exc), WRONG_CALL)
    except PolyrankError as exc:
        _fail(str(exc), FAILED)
    except BrokenPipeError:
        _abandon_standard_output()  # the reader has seen enough, as in `polyrank … | head`
        sys.exit(FAILED)
    except OSError as exc:
        _fail(f"{exc.filename or 'a file'}: {exc.strerror or exc}", FAILED)


@contextmanager
def _naming_standard_output() -> Iterator[None]:
    """Write out what is left in standard output, and name it in errors that name no file."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as exc:
        if exc.filename is None and exc.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            _abandon_standard_output()
            raise OSError(exc.errno, exc.strerror, "standard output") from exc
        raise


def _abandon_standard_output() -> None:
    """Keep Python from flushing again what cannot be written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ClosedOutput(io.TextIOBase):
    """Stands for a standard output that was closed before: silence would hide lost results."""

    def write(self, text: str) -> int:
        if text:
            raise OSError(errno.EBADF, "is closed; name a file with --output", "standard output")
        return 0


def _stand_in_for_closed_streams() -> None:
    """Put something in place of standard streams that are closed, which Python leaves as None."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next file to be opened would become the stream
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf8")  # noqa: SIM115  # as long as Python runs


def _fail(message: str, code: int) -> None:
    line = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)
    sys.exit(code)
