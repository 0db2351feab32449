"""The command line: registers the commands, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 something failed, 2 the call was wrong, 3 a quality gate refused, 130 stopped
by Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from polyrank.cli import screen
from polyrank.cli.classify import classify
from polyrank.cli.compress import compress_app
from polyrank.cli.doctor import doctor
from polyrank.cli.embed import embed
from polyrank.cli.evaluate import evaluate_command
from polyrank.cli.info import info
from polyrank.cli.needs import EXTRA_OF_COMMAND, needing
from polyrank.cli.rerank import rerank
from polyrank.cli.serve import serve
from polyrank.cli.train import train_app
from polyrank.errors import ConfigError, PolyrankError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130

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
app.command("serve", context_settings={"auto_envvar_prefix": "POLYRANK_SERVE"})(serve)
app.command("info")(info)
app.add_typer(compress_app)
app.add_typer(train_app)
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


def main() -> None:
    """Run the command line. Errors that polyrank expects never show a traceback."""
    try:
        # of commands that load several models; those that load one say it at once
        with screen.assumptions_as_remarks(quiet="--quiet" in sys.argv):
            app()
    except ConfigError as exc:
        _fail(str(exc), WRONG_CALL)
    except PolyrankError as exc:
        _fail(str(exc), FAILED)
    except BrokenPipeError:
        # the reader has seen enough, as in `polyrank … | head`; keep Python from flushing again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as exc:
        _fail(f"{exc.filename or 'a file'}: {exc.strerror or exc}", FAILED)
    except KeyboardInterrupt:
        _fail("stopped", INTERRUPTED)


def _fail(message: str, code: int) -> None:
    line = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)
    sys.exit(code)


if __name__ == "__main__":
    main()
