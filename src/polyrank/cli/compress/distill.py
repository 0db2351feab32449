"""`polyrank compress distill`: a student with fewer layers, taught by the checkpoint itself."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.cli import screen
from polyrank.cli.compress.drop_layers import Keep, Layers, chosen_layers
from polyrank.cli.fields import takes
from polyrank.cli.train.finetuning import finetune
from polyrank.cli.train.options import Resume, finetuning_options
from polyrank.errors import CapabilityError
from polyrank.training.config import TrainTask

_OWN = ("model", "output", "teacher", "lora_rank")
OPTIONS = [each for each in finetuning_options("embedder") if each.name not in _OWN]
_TEXTS_ALONE = ("hard_negatives=0", "random_negatives=1", "miner=none")
"""What a list holds where rows are learnt: any texts do, so that none are searched for."""


@takes(*OPTIONS)
def distill(
    teacher: Annotated[str, typer.Argument(help="Folder or Hub id of a float checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    layers: Layers = None,
    keep: Keep = None,
    resume: Resume = False,
    **options: Any,
) -> None:
    """Teach a student with fewer layers what the checkpoint itself says.

    The student starts from the teacher's own layers (as `polyrank compress drop-layers` makes it);
    tables, tokenizer and head are the teacher's. An embedder learns the teacher's vectors and the
    rows of its tokens (--loss vectors), a cross-encoder its scores of whole lists (--loss distill,
    or margin-mse). It is a run of `polyrank train`: Ctrl-C saves what is there, --resume goes on,
    --eval-data keeps the best state.

    For example:

        polyrank compress distill intfloat/multilingual-e5-small six --layers 6 -d rows.jsonl
        polyrank compress distill BAAI/bge-reranker-base small --layers 6 -d beir --minutes 120
        polyrank compress report intfloat/multilingual-e5-small six --data data/xquad
    """
    folder, name = resolve_float(teacher)
    checkpoint = read_checkpoint(folder, name)
    task, loss = _taught(checkpoint)
    start = output.with_name(f"{output.name}.start")
    is_new = not (resume and start.is_dir())
    if is_new:
        from polyrank.compress.layers.drop import drop_layers

        kept = chosen_layers(checkpoint, layers, keep)
        drop_layers(checkpoint, start, kept)
        words = ", ".join(map(str, kept))
        screen.remark(f"the student has the teacher's layers {words}", quiet=options["quiet"])
    if task == "embedder":
        options["assignments"] = [*_TEXTS_ALONE, *(options["assignments"] or ())]
    options["loss"] = options["loss"] or loss
    given = {**options, "model": str(start), "output": output, "teacher": str(folder)}
    try:
        finetune(task, given, resume=resume)
    except BaseException:
        # a run that can be resumed has checkpoints, and needs what it started from
        if is_new and not output.with_name(f"{output.name}.checkpoints").exists():
            shutil.rmtree(start)
        raise
    shutil.rmtree(start)


def _taught(checkpoint: Checkpoint) -> tuple[TrainTask, str]:
    """Return what the student is, and the loss that teaches it."""
    heads = checkpoint.spec.heads
    if "rerank" in heads and heads["rerank"].pooling:
        return "reranker", "distill"
    if "embed" in heads and "rerank" not in heads:
        return "embedder", "vectors"
    raise CapabilityError(
        f"{checkpoint.spec.name} is neither an embedder nor a cross-encoder for reranking "
        f"({', '.join(heads)}). Distil the checkpoint that it was made of."
    )
