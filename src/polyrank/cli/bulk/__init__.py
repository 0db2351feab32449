"""`polyrank bulk`: whole data sets through a model, on this machine or on a cluster."""

import typer

from polyrank.cli.bulk.commands import classify, embed, rerank
from polyrank.cli.bulk.shared import sharing

bulk_app = typer.Typer(name="bulk", no_args_is_help=True)


@bulk_app.callback()
def _bulk() -> None:
    """Embed, score or label whole data sets: files in, a folder of Parquet files out.

    A run that was stopped goes on where it was when the same command is given again.
    """


bulk_app.command("embed")(sharing(embed))
bulk_app.command("rerank")(sharing(rerank))
bulk_app.command("classify")(sharing(classify))
