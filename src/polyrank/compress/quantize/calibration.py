"""What a body's linear layers are given on real texts, for the multipliers of int8.

See `polyrank.compress.quantize.multipliers`, and `polyrank.encoder.smoothing` for where there are
no texts.
"""

from collections.abc import Sequence

import numpy as np

from polyrank.checkpoint.spec import BodySpec
from polyrank.compress.quantize.multipliers import InputRows
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.native_linears import LINEARS
from polyrank.engine.packing import plan_batches
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.labelled import LabelledSet
from polyrank.inference.computations import Window
from polyrank.inference.model import load_model
from polyrank.progress import Progress
from polyrank.text.prompts import prompt_for_input_type
from polyrank.types import PackedBatch

MAX_LENGTH = 128
NUM_PAIRS = 64
MOST_ROWS = 4_096  # of an input; rare wide ones are missed in fewer
_MOST_BYTES = 512 << 20  # of all rows kept
_PACK_TOKENS = 256  # recorded at once

EXACT = EngineConfig(encoder="native", compute_dtype="float32")

Texts = Sequence[str] | Sequence[tuple[str, str]]


def sample_pairs(dataset: Dataset | LabelledSet, seed: int) -> list[tuple[str, str]]:
    """Return queries with a relevant document each, or labelled pairs, from all languages alike.

    Args:
        dataset: The evaluation set.
        seed: Of the draw.

    Returns:
        At most `NUM_PAIRS` pairs of texts.
    """
    generator = np.random.default_rng(seed)
    if isinstance(dataset, LabelledSet):
        chosen = generator.permutation(len(dataset.pairs))[:NUM_PAIRS]
        return [(dataset.pairs[i].query, dataset.pairs[i].passage) for i in chosen]
    documents = {document.doc_id: document for document in dataset.documents}
    queries = [query for query in dataset.queries if any(dataset.qrels[query.query_id].values())]
    drawn = generator.permutation(len(queries))[:NUM_PAIRS]
    pairs = []
    for query in (queries[i] for i in drawn):
        grades = dataset.qrels[query.query_id]
        best = max(grades, key=lambda doc_id: grades[doc_id])
        pairs.append((query.text, documents[best].content()))
    return pairs


def record_inputs(
    folder: str, texts: Texts, seed: int = 0, progress: Progress | None = None
) -> InputRows:
    """Return what linear layers are given for some tokens of texts.

    Args:
        folder: Folder of the float checkpoint.
        texts: Texts, or pairs of query and document, which heads of embedding and of late
            interaction read apart and other heads together.
        seed: Of the choice of tokens, where there are more than are kept.
        progress: Called with tokens done and tokens in all.

    Returns:
        The inputs.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        MissingExtraError: If the native encoder was not built.
    """
    model = load_model(folder, EXACT)
    builder = model.computations.builder(Window(TruncationConfig(MAX_LENGTH)))
    pairs = [pair for pair in texts if not isinstance(pair, str)]
    batches: list[PackedBatch] = []
    if "embed" in model.spec.heads or not pairs:
        query_prompt = prompt_for_input_type(model.spec.prompts, "query")
        document_prompt = prompt_for_input_type(model.spec.prompts, "document")
        batches.append(builder.texts(_prompted(texts, query_prompt, document_prompt)).batch)
    others = (head for task, head in model.spec.heads.items() if task != "embed")
    if pairs and any(head.late_interaction is None for head in others):
        batches.append(builder.pairs(pairs).batch)
    encoder = model.engine.encoder
    assert isinstance(encoder, NativeEncoder)
    return _recorded(encoder, batches, model.spec.body, seed, progress)


def _prompted(texts: Texts, query_prompt: str, document_prompt: str) -> list[str]:
    found: list[str] = []
    for entry in texts:
        if isinstance(entry, str):
            found.append(document_prompt + entry)
        else:
            found += [query_prompt + entry[0], document_prompt + entry[1]]
    return found


def _recorded(
    encoder: NativeEncoder,
    batches: Sequence[PackedBatch],
    body: BodySpec,
    seed: int,
    progress: Progress | None,
) -> InputRows:
    widths = (body.hidden_size,) * (len(LINEARS) - 1) + (body.intermediate_size,)
    most_rows = min(MOST_ROWS, _MOST_BYTES // (4 * body.num_layers * sum(widths)))
    total, done = sum(batch.total_tokens for batch in batches), 0
    generator = np.random.default_rng(seed)
    kept = np.sort(generator.permutation(total)[:most_rows])
    rows = tuple(
        tuple(np.empty((len(kept), width), np.float32) for width in widths)
        for _ in range(body.num_layers)
    )
    for batch in batches:
        for indices in plan_batches(batch.lengths, _PACK_TOKENS, is_padding=False):
            part = batch.select(indices)
            first, last = np.searchsorted(kept, (done, done + part.total_tokens))
            chosen = kept[first:last] - done
            found = encoder.record_inputs(part)
            for layer, inputs in enumerate(rows):
                for number, array in enumerate(inputs):
                    array[first:last] = found[layer, number, chosen, : array.shape[1]]
            done += part.total_tokens
            if progress is not None:
                progress(done, total)
    return InputRows(rows)
