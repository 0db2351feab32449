"""Which scorer a checkpoint's heads ask for."""

from collections.abc import Mapping

from polyrank.checkpoint.spec import PromptsSpec
from polyrank.tasks.heads import Head
from polyrank.tasks.kept_rows import AS_READ, RowFormat
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.tasks.multi_vector import MultiVectorScorer
from polyrank.tasks.scoring import CosineScorer, CrossEncoderScorer, PairScorer
from polyrank.text.pairs import SequenceBuilder
from polyrank.types import TaskName


def pair_scorer(
    heads: Mapping[TaskName, Head],
    builder: SequenceBuilder,
    prompts: PromptsSpec,
    row_format: RowFormat = AS_READ,
) -> PairScorer:
    """Return what scores pairs with a checkpoint's heads.

    Args:
        heads: The loaded heads, the one that gives the logits first; "embed" beside it where that
            is one of late interaction.
        builder: Makes sequences of texts.
        prompts: What the checkpoint wants put before texts that are read apart.
        row_format: How small late interaction makes documents' rows.

    Returns:
        Cosines where the first is the embed head; else late interaction, of polyrank's
        kind or of projected rows alone, or a cross-encoder.
    """
    task, head = next(iter(heads.items()))
    if task == "embed":
        return CosineScorer(builder, head, prompts)
    if head.spec.multi_vector is not None:
        return MultiVectorScorer(builder, head, prompts, row_format)
    if head.late_interaction is not None:
        return LateInteractionScorer(builder, head, heads["embed"], prompts, row_format)
    return CrossEncoderScorer(builder, head)
