"""`polyrank compress`: a command a module."""

import typer

from polyrank.cli.compress.distill import distill
from polyrank.cli.compress.drop_layers import drop_layers
from polyrank.cli.compress.export import export
from polyrank.cli.compress.onnx import onnx
from polyrank.cli.compress.quantize import quantize
from polyrank.cli.compress.report import report
from polyrank.cli.compress.table import table
from polyrank.cli.compress.trim import trim

compress_app = typer.Typer(
    name="compress",
    no_args_is_help=True,
    help="Make a checkpoint smaller and faster, and measure what that costs.",
)


@compress_app.callback()
def _compress() -> None:
    """Make a checkpoint smaller and faster, and measure what that costs."""


compress_app.command("trim")(trim)
compress_app.command("table")(table)
compress_app.command("export")(export)
compress_app.command("drop-layers")(drop_layers)
compress_app.command("distill")(distill)
compress_app.command("onnx")(onnx)
compress_app.command("quantize")(quantize)
compress_app.command("report")(report)
