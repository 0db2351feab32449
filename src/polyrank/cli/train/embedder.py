"""`polyrank train embedder`: vectors of queries near to those of what answers them."""

from typing import Any

from polyrank.cli.fields import takes
from polyrank.cli.train.finetuning import finetune
from polyrank.cli.train.options import Resume, finetuning_options


@takes(*finetuning_options("embedder"))
def embedder(resume: Resume = False, **options: Any) -> None:
    """Train an embedder: queries near to what answers them.

    Modules, pooling and prompts stay those of the start checkpoint; its prompts are used.

    For example:

        polyrank train embedder intfloat/multilingual-e5-small -d beir -o mine --epochs 1
        polyrank train embedder FOLDER -d parallel -o mine --batch-size 256 --lora-rank 16
    """
    finetune("embedder", options, resume=resume)
