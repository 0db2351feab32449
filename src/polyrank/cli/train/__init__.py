"""`polyrank train`: a command a module, and the options that they share."""

import typer

from polyrank.cli.train.classifier import classifier
from polyrank.cli.train.embedder import embedder
from polyrank.cli.train.first_stage_weight import first_stage_weight
from polyrank.cli.train.late_interaction import late_interaction
from polyrank.cli.train.pruning import pruning
from polyrank.cli.train.reranker import reranker

train_app = typer.Typer(name="train", no_args_is_help=True)


@train_app.callback()
def _train() -> None:
    """Fine-tune a checkpoint on your data.

    Data are read by what they hold: a BEIR folder (corpus.jsonl, queries.jsonl, qrels.tsv); a
    JSONL file of {"query", "positives", "negatives", "neutrals"}; questions with their passages,
    sections in several languages, or translations, as the manual describes.
    """


train_app.command("reranker")(reranker)
train_app.command("classifier")(classifier)
train_app.command("embedder")(embedder)
train_app.command("late-interaction")(late_interaction)
train_app.command("first-stage-weight")(first_stage_weight)
train_app.command("pruning")(pruning)
