"""Training of late interaction on an embedder that stays as it is.

A rerank and a classify head are made that compare the token rows of two texts, each read on its
own (`polyrank.tasks.late_interaction`). What is learnt is little, so that it holds in languages
without training data too: the mean row, the directions that tell languages and queries from
passages, the weight of a query's token, and small layers on a few features of a pair. The body is
not touched; rows are computed once.

References: Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (MaxSim); Xie et al., EMNLP 2022,
arXiv:2401.05792 (language directions found by singular values of the languages' means).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank._extras import require
from polyrank._files import building, publish, replacing
from polyrank.checkpoint.building import check_free, copy_rest
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.layouts import CONFIG_FILE, EXTRA_HEADS_KEY, WEIGHTS_FILE
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.checkpoint.saving import save_aligned
from polyrank.checkpoint.spec import MatchFeature
from polyrank.config import EngineConfig
from polyrank.errors import CapabilityError, ConfigError, DataError
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import load_model
from polyrank.progress import StepProgress, unheard
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.training.config import RELEVANCE_LABELS
from polyrank.training.data.negatives import Miner, make_miner
from polyrank.training.data.reading import read_mixture
from polyrank.training.data.sampling import IRRELEVANT, Drawer, RankedList
from polyrank.training.data.schedule import plan_draws
from polyrank.training.data.shortening import shortened
from polyrank.training.late_interaction.settings import (
    PREFIX,
    LateInteractionConfig,
    LateInteractionJob,
)
from polyrank.training.late_interaction.token_rows import (
    FEATURES,
    RERANK_FEATURES,
    Examples,
    RowReader,
    centers,
    in_blocks,
    language_directions,
    lists_of_questions,
    orthonormal,
)
from polyrank.training.record import RECORD_FILE, describe_sources, versions
from polyrank.types import Activation, Float32Array

_LONGEST_QUERY = 64  # tokens
_ONE_TOPIC = 0.18  # mean clean cosine of random pairs; near 0 where topics are many


def train_late_interaction(
    job: LateInteractionJob, *, progress: StepProgress | None = None
) -> dict[str, Any]:
    """Make a folder whose model reranks and classifies by late interaction.

    Args:
        job: What to train, on what, where to.
        progress: Called as work goes on.

    Returns:
        What is in its training.json.

    Raises:
        ConfigError: If the output exists or settings contradict each other.
        DataError: If data cannot be read, or hold no query with an answer.
        CapabilityError: If the checkpoint makes no vectors, or is int8.
        MissingExtraError: If torch is missing.
    """
    require("train", purpose="polyrank train late-interaction")
    from polyrank.training.late_interaction.fit import fit_heads

    begun = time.monotonic()
    check_free(job.output)
    if not job.data:
        raise ConfigError("nothing to train on: name a file or folder with --data.")
    report = progress or unheard
    folder, name = resolve_float(job.model)
    checkpoint = read_checkpoint(folder, name)
    _check_start(checkpoint, name)
    sources, config = read_mixture(job.data), job.config
    schedule = plan_draws(sources, config.drawing)
    engine = EngineConfig(num_threads=job.num_threads, compute_dtype=config.compute_dtype)
    model = load_model(str(folder), engine)
    drawer = Drawer(sources, schedule, config.drawing, miner=_miner(job, report))
    reader = RowReader(model, config.max_length)
    languages = language_directions(sources, reader, config.directions, config.seed, report)
    center, role = centers(drawer, reader, lists_of_questions(sources, schedule), report)
    directions = orthonormal(languages, role)
    scorer = reader.scorer(center, directions)
    translated = np.array([source.is_translation for source in sources])
    examples = collect(drawer, schedule.source_of, translated, reader, scorer, config, report)
    heads, course = fit_heads(examples, config, report)
    drawn = np.bincount(schedule.source_of, minlength=len(sources)).tolist()
    record = {
        "task": "late-interaction",
        "start": checkpoint.spec.name,
        "start_sha256": fingerprint(checkpoint.weights.paths),
        "compute_dtype": reader.model.engine.encoder.capabilities.compute_dtype,
        "versions": versions(),
        "settings": asdict(config),
        "miner": Path(job.miner or "default").name,
        "data": describe_sources(sources, schedule.num_usable, drawn),
        "num_pairs": len(examples.grades),
        "evaluations": course,
        "seconds": round(time.monotonic() - begun, 1),
    }
    tensors = {f"{PREFIX}.center": center, f"{PREFIX}.directions": directions, **heads}
    _publish(checkpoint, tensors, job.output, record)
    return record


def _check_start(checkpoint: Checkpoint, name: str) -> None:
    if checkpoint.spec.quantization is not None or "embed" not in checkpoint.spec.heads:
        raise CapabilityError(
            f"{name} cannot learn late interaction: that takes an embedding checkpoint with float "
            "weights. Quantise the result with `polyrank compress quantize`."
        )


def collect(
    drawer: Drawer,
    source_of: NDArray[np.integer[Any]],
    is_translation: NDArray[np.bool_],
    reader: RowReader,
    scorer: LateInteractionScorer,
    config: LateInteractionConfig,
    progress: StepProgress,
) -> Examples:
    """Return the pairs of the drawn lists as numbers.

    Args:
        drawer: Gives the lists.
        source_of: Source of each list, shape (num_lists,).
        is_translation: Whether a source's passages are translations, shape (num_sources,).
        reader: Reads rows.
        scorer: Compares them.
        config: Random negatives of a list, which come last; share of shortened lists; seed.
        progress: Called with the step "lists".

    Returns:
        The pairs of lists with two passages or more.

    Raises:
        DataError: If there is no such list.
    """

    def fit(pairs: Sequence[tuple[str, str]]) -> Float32Array:
        features = scorer.features_of(scorer.compare(*reader.rows(scorer, pairs)))
        return features[:, FEATURES.index("plain_match") - 1]

    parts: list[tuple[Any, ...]] = []
    sources: list[int] = []  # of the parts

    def add(
        lists: Sequence[RankedList], labelled: Sequence[NDArray[np.bool_]], owners: Sequence[int]
    ) -> None:
        for place, numbers in _numbers(lists, labelled, reader, scorer):
            parts.append(numbers)
            sources.append(owners[place])

    num_lists, start = len(source_of), 0
    for drawn in in_blocks(drawer, range(num_lists)):
        several = [i for i, entry in enumerate(drawn) if len(entry.passages) > 1]
        lists = [drawn[i] for i in several]
        owners = [int(source_of[start + i]) for i in several]
        labelled = _labelled(lists, is_translation[owners], config.random_negatives)
        add(lists, labelled, owners)
        generators = [np.random.default_rng((config.seed, 13, start + i)) for i in several]
        short = [
            place
            for place, owner in enumerate(owners)
            if not is_translation[owner] and generators[place].random() < config.shortened
        ]
        chosen = [generators[place] for place in short]
        shorter = shortened([lists[place] for place in short], fit, chosen)
        add(shorter, [labelled[place] for place in short], [owners[place] for place in short])
        start += len(drawn)
        progress("lists", start, num_lists)
    if not parts:
        raise DataError("no query of the data has two passages to tell apart.")
    return _joined(parts, sources)


def _labelled(
    lists: Sequence[RankedList], are_translations: NDArray[np.bool_], num_random: int
) -> list[NDArray[np.bool_]]:
    """Tell of each list which grades are classes too."""
    pairs = zip(lists, are_translations, strict=True)
    return [~_mined(entry, num_random) & ~is_translation for entry, is_translation in pairs]


def _joined(parts: Sequence[tuple[Any, ...]], sources: Sequence[int]) -> Examples:
    features, matches, grades, is_labelled, rows = zip(*parts, strict=True)
    longest = max(part.shape[1] for part in matches)
    _unlabel_one_topic(features, grades, is_labelled, sources)
    return Examples(
        features=np.concatenate(features),
        matches=np.concatenate([_widened(part, longest) for part in matches]),
        grades=np.concatenate(grades),
        is_labelled=np.concatenate(is_labelled),
        list_starts=np.cumsum([0, *map(len, grades)]),
        query_rows=np.concatenate(rows),
        query_starts=np.cumsum([0, *map(len, rows)]),
    )


def _numbers(
    lists: Sequence[RankedList],
    labelled: Sequence[NDArray[np.bool_]],
    reader: RowReader,
    scorer: LateInteractionScorer,
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield a list's place with features, matches, grades, which are labels, the query's rows."""
    pairs = [(entry.query, text) for entry in lists for text in entry.passages]
    if not pairs:
        return
    plan, rows = reader.rows(scorer, pairs)
    compared = scorer.compare(plan, rows)
    features = scorer.features_of(compared)
    bounds = np.cumsum([0, *compared.sizes])
    ends = np.cumsum([0, *(len(entry.passages) for entry in lists)])
    bounded = enumerate(zip(lists, labelled, pairwise(ends), strict=True))
    for place, (entry, labels, (first, last)) in bounded:
        size = int(compared.sizes[first])
        if size > _LONGEST_QUERY:
            continue
        matches = compared.by_query[bounds[first] : bounds[last]].reshape(last - first, size).copy()
        start, end = compared.given.queries[first]
        clean = compared.given.clean[start:end].copy()  # a view would hold the rows of all texts
        yield place, (features[first:last], matches, np.array(entry.grades), labels, clean)


def _unlabel_one_topic(
    features: Sequence[Float32Array],
    grades: Sequence[NDArray[np.int64]],
    is_labelled: Sequence[NDArray[np.bool_]],
    sources: Sequence[int],
) -> None:
    """Take the class from irrelevant passages of sources whose passages are all on one topic."""
    column = FEATURES.index("clean_cosine") - 1
    cosines: dict[int, list[float]] = {}
    for own, grade, labels, source in zip(features, grades, is_labelled, sources, strict=True):
        random_ones = labels & (grade == IRRELEVANT)
        cosines.setdefault(source, []).extend(own[random_ones, column].tolist())
    of_one_topic = {
        source for source, found in cosines.items() if found and np.mean(found) > _ONE_TOPIC
    }
    for grade, labels, source in zip(grades, is_labelled, sources, strict=True):
        if source in of_one_topic:
            labels[grade == IRRELEVANT] = False


def _mined(entry: RankedList, num_random: int) -> NDArray[np.bool_]:
    """Tell the negatives chosen for their nearness: all but the random ones at the end."""
    irrelevant = np.flatnonzero(np.array(entry.grades) == IRRELEVANT)
    is_mined = np.zeros(len(entry.grades), bool)
    is_mined[irrelevant[: max(0, len(irrelevant) - num_random)]] = True
    return is_mined


def _widened(rows: Float32Array, width: int) -> Float32Array:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _miner(job: LateInteractionJob, progress: StepProgress) -> Miner | None:
    if not job.config.hard_negatives:
        return None
    return make_miner(
        Embedder(job.miner, num_threads=job.num_threads),
        job.config.drawing,
        job.cache_dir,
        lambda done, total: progress("encoding passages", done, total),
    )


def _publish(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Float32Array],
    output: Path,
    record: Mapping[str, Any],
) -> None:
    weights, source = checkpoint.weights, checkpoint.spec.folder
    with building(output) as folder:
        copy_rest(source, folder, {path.resolve() for path in weights.paths})
        target = folder / weights.folder.relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        kept = {name: weights.get_float32(name) for name in weights if weights.is_float(name)}
        with replacing(target / WEIGHTS_FILE) as path:
            save_aligned({**kept, **tensors}, path)
        config = json.loads((target / CONFIG_FILE).read_text("utf8"))
        config.pop(FIRST_STAGE_KEY, None)  # learnt for the checkpoint as it was
        config[EXTRA_HEADS_KEY] = {
            **config.get(EXTRA_HEADS_KEY, {}),
            "rerank": _describe("rerank", RERANK_FEATURES, 1, "sigmoid", ("relevant",)),
            "classify": _describe("classify", FEATURES, 2, "softmax", RELEVANCE_LABELS),
        }
        for path, content in ((target / CONFIG_FILE, config), (folder / RECORD_FILE, record)):
            with replacing(path) as written:
                text = json.dumps(content, ensure_ascii=False, indent=2)
                written.write_text(text + "\n", "utf8")
        publish(folder, output)


def _describe(
    task: str,
    features: Sequence[MatchFeature],
    num_layers: int,
    activation: Activation,
    labels: Sequence[str],
) -> dict[str, Any]:
    def layer(name: str) -> dict[str, str]:
        return {"weight": f"{PREFIX}.{name}.weight", "bias": f"{PREFIX}.{name}.bias"}

    dense: list[dict[str, str]] = [layer(f"{task}.{i}") for i in range(num_layers)]
    for hidden in dense[:-1]:
        hidden["nonlinearity"] = "gelu"
    late: dict[str, Any] = {
        "center": f"{PREFIX}.center",
        "directions": f"{PREFIX}.directions",
        "weight": layer("tokens"),
        "features": list(features),
    }
    return {
        "late_interaction": late,
        "layers": dense,
        "activation": activation,
        "labels": list(labels),
    }
