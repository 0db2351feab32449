"""`polyrank train reranker`: a cross-encoder that orders passages."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from polyrank.cli.train.finetuning import finetuning


class RerankerLoss(StrEnum):
    """Losses of a reranker."""

    LISTNET = "listnet"
    LAMBDA = "lambda"
    BCE = "bce"
    MARGIN_MSE = "margin-mse"
    MSE = "mse"
    DISTILL = "distill"


_RERANKER: Mapping[str, tuple[Any, Any]] = {
    "loss": (
        Annotated[
            RerankerLoss,
            typer.Option(
                help="listnet and lambda look at whole lists, bce at each pair. margin-mse, mse "
                "and distill (a list's distribution) learn a --teacher's scores, or those of the "
                "rows."
            ),
        ],
        RerankerLoss.LISTNET,
    ),
    "second_weight": (
        Annotated[
            float | None,
            typer.Option(
                "--bce-weight",
                help="BCE added to the loss, which makes scores comparable across queries. Left "
                "out: 0.3 beside listnet and lambda.",
                min=0.0,
                show_default=False,
            ),
        ],
        None,
    ),
}
reranker = finetuning(
    "reranker",
    """Train a cross-encoder to order passages by relevance.

    The output folder runs with `polyrank rerank --model OUTPUT`, and in sentence-transformers as
    a CrossEncoder. training.json and training.png in it tell what happened. Ctrl-C saves what is
    there; the same call with --resume goes on.

    For example:

        polyrank train reranker BAAI/bge-reranker-base --data rows.jsonl -o mine --epochs 2
        polyrank train reranker -d beir -d parallel:2 -o mine --minutes 90 --eval-data dev
        polyrank train reranker -d beir -o small --loss distill --teacher BAAI/bge-reranker-v2-m3
    """,
    _RERANKER,
)
