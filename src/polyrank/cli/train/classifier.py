"""`polyrank train classifier`: a cross-encoder that tells passages apart."""

from typing import Any

from polyrank.cli.fields import takes
from polyrank.cli.train.finetuning import finetune
from polyrank.cli.train.options import Resume, finetuning_options


@takes(*finetuning_options("classifier"))
def classifier(resume: Resume = False, **options: Any) -> None:
    """Train a cross-encoder to tell relevant, neutral and irrelevant passages apart.

    Labels come from structure: the passage that answers is relevant, others of its article or
    page are neutral, passages from elsewhere irrelevant. Queries without any answer take part.
    JSONL rows name their neutrals.

    For example:

        polyrank train classifier intfloat/multilingual-e5-small -d qa -o three --minutes 60
    """
    finetune("classifier", options, resume=resume)
