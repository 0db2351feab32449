"""`polyrank train reranker`: a cross-encoder that orders passages."""

from typing import Any

from polyrank.cli.fields import takes
from polyrank.cli.train.finetuning import finetune
from polyrank.cli.train.options import Resume, finetuning_options


@takes(*finetuning_options("reranker"))
def reranker(resume: Resume = False, **options: Any) -> None:
    """Train a cross-encoder to order passages by relevance.

    The output folder runs with `polyrank rerank --model OUTPUT`, and in sentence-transformers as
    a CrossEncoder. training.json and training.png in it tell what happened. Ctrl-C saves what is
    there; the same call with --resume goes on.

    For example:

        polyrank train reranker BAAI/bge-reranker-base --data rows.jsonl -o mine --epochs 2
        polyrank train reranker -d beir -d parallel:2 -o mine --minutes 90 --eval-data dev
        polyrank train reranker -d beir -o small --loss distill --teacher BAAI/bge-reranker-v2-m3
        polyrank train reranker --config run.toml --seed 1 -o again
    """
    finetune("reranker", options, resume=resume)
