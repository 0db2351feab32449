"""`polyrank train embedder`: vectors of queries near to those of what answers them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from polyrank.cli.train.finetuning import finetuning
from polyrank.cli.train.options import EMBEDDER_LACKS


class EmbedderLoss(StrEnum):
    """Losses of an embedder."""

    CONTRASTIVE = "contrastive"
    MARGIN_MSE = "margin-mse"
    DISTILL = "distill"


_EMBEDDER: Mapping[str, tuple[Any, Any]] = {
    "loss": (
        Annotated[
            EmbedderLoss,
            typer.Option(
                help="contrastive ranks each answer above all others of the batch; margin-mse "
                "and distill learn a --teacher's scores, or those of the rows."
            ),
        ],
        EmbedderLoss.CONTRASTIVE,
    ),
    "second_weight": (
        Annotated[
            float | None,
            typer.Option(
                "--contrastive-weight",
                help="Contrastive loss added to margin-mse or distill.",
                min=0.0,
                show_default=False,
            ),
        ],
        None,
    ),
}


embedder = finetuning(
    "embedder",
    """Train an embedder: queries near to what answers them.

    Modules, pooling and prompts stay those of the start checkpoint; its prompts are used.

    For example:

        polyrank train embedder intfloat/multilingual-e5-small -d beir -o mine --epochs 1
        polyrank train embedder FOLDER -d parallel -o mine --batch-size 256 --lora-rank 16
    """,
    _EMBEDDER,
    EMBEDDER_LACKS,
)
