"""Heads that compare the token rows of texts read apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.spec import MATCH_FEATURES
from polyrank.cli.info import describe
from polyrank.compress.gate.ranking import Contender, PairRun
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.engine.engine import Engine
from polyrank.errors import CheckpointError, CorruptWeightsError, InputError, MissingWeightError
from polyrank.inference import pair_runs
from polyrank.inference.computations import Window
from polyrank.inference.model import load_model
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.types import ComputeDtype
from tests.checkpoints import LATE_FEATURES, late_interaction
from tests.texts import AWKWARD, SENTENCES
from tests.tolerances import BATCH_MATES, LOGIT

Checkpoint = Callable[[str], Path]
TEXTS = list(SENTENCES.values())
PAIRS = [
    ("How long do cats live?", TEXTS[0]),
    ("How long do cats live?", TEXTS[6]),
    (TEXTS[16], "cats"),
    ("", TEXTS[1]),
    ("猫", ""),
    ("", ""),
    (TEXTS[3], TEXTS[3]),
    ("cats", AWKWARD["long"]),  # longer than the model reads
    (AWKWARD["long"], AWKWARD["emoji"]),
]


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(checkpoint, tmp_path_factory.mktemp("late"))


def made(checkpoint: Checkpoint, parent: Path, **changes: object) -> Path:
    name = "multilingual-e5-small"
    return late_interaction(Path(shutil.copytree(checkpoint(name), parent / name)), **changes)


def edit(folder: Path, task: str, **changes: object) -> None:
    """Change a head's description; None takes an entry away."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    head = config["polyrank_heads"][task] | changes
    config["polyrank_heads"][task] = {k: v for k, v in head.items() if v is not None}
    path.write_text(json.dumps(config))


class Reference:
    """The same features by transformers and torch, in float64 behind the body."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tensors = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}

    def read(self, prompt: str, text: str, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all rows of a text, and the clean ones of its own tokens."""
        given = self.tokenizer(
            prompt + text, return_tensors="pt", truncation=True, max_length=limit
        )
        with torch.no_grad():
            rows = self.model(**given).last_hidden_state[0].double()
        pieces = self.tokenizer(prompt.strip(), add_special_tokens=False)["input_ids"]
        kept = rows[1 + len(pieces) : -1]
        if not len(kept):
            kept = rows
        clean = kept - self.tensors["heads.match.center"]
        for direction in self.tensors["heads.match.directions"]:
            clean = clean - torch.outer(clean @ direction, direction)
        return rows, torch.nn.functional.normalize(clean, dim=1)

    def features(self, query: str, document: str, limit: int = 512) -> dict[str, float]:
        _, q = self.read("query: ", query, limit)
        _, d = self.read("passage: ", document, limit)
        similarities = q @ d.T
        best = similarities.max(dim=1).values
        weight = q @ self.tensors["heads.match.weight"][0] + self.tensors["heads.match.bias"]
        w = torch.nn.functional.softplus(weight)
        cosine = torch.nn.functional.cosine_similarity
        values = {
            "sharp_match": (w * best.clamp_min(0) ** 1.5).sum() / w.sum(),
            "plain_match": best.mean(),
            "least_match": best.sort().values[: int(np.ceil(len(best) / 4))].mean(),
            "reverse_match": similarities.max(dim=0).values.mean(),
            "clean_cosine": cosine(q.mean(0), d.mean(0), dim=0),
            "document_length": np.log(len(d)),
        }
        return {name: float(value) for name, value in values.items()}

    def rerank(self, features: list[float]) -> float:
        t = self.tensors
        x = torch.tensor(features, dtype=torch.float64)
        x = t["heads.rerank.0.weight"] @ x + t["heads.rerank.0.bias"]
        return float(t["heads.rerank.1.weight"] @ torch.nn.functional.gelu(x))

    def classify(self, features: list[float]) -> torch.Tensor:
        t = self.tensors
        x = torch.tensor(features, dtype=torch.float64)
        return torch.softmax(t["heads.classify.weight"] @ x + t["heads.classify.bias"], dim=0)


def scorer_of(folder: Path, **limits: int) -> tuple[LateInteractionScorer, Engine]:
    model = load_model(folder, EngineConfig())
    scorer = model.computations.ranking(Window(TruncationConfig(**limits))).scorer
    assert isinstance(scorer, LateInteractionScorer)
    return scorer, model.engine


@pytest.mark.parametrize("limit", [512, 20])
def test_features_are_those_of_the_formulas(folder: Path, limit: int) -> None:
    scorer, engine = scorer_of(folder, max_length=limit)
    plan = scorer.prepare(PAIRS)
    features = scorer.features(plan, engine.run(plan.batch, (), 64))
    reference = Reference(folder)
    for pair, found in zip(PAIRS, features, strict=True):
        wanted = list(reference.features(*pair, limit).values())
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ["native", "onnx", "pytorch"])
def test_logits_and_labels(folder: Path, encoder: str) -> None:
    reference = Reference(folder)
    features = [list(reference.features(*pair).values()) for pair in PAIRS]
    found = Reranker(folder, encoder=encoder, passages=None).score(PAIRS, logits=True)
    wanted = [reference.rerank(row) for row in features]
    np.testing.assert_allclose(found, wanted, atol=LOGIT, rtol=0)
    labelled = Classifier(folder, encoder=encoder).classify(PAIRS)
    for result, row in zip(labelled, features, strict=True):
        wanted = reference.classify(row).numpy()
        assert list(result.probabilities) == ["irrelevant", "neutral", "relevant"]
        np.testing.assert_allclose(list(result.probabilities.values()), wanted, atol=LOGIT)
        assert result.label == ["irrelevant", "neutral", "relevant"][int(wanted.argmax())]


@pytest.mark.parametrize("compute_dtype", ["float32", "int8"])
def test_nothing_else_in_the_call_changes_a_bit(
    folder: Path, compute_dtype: ComputeDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [*PAIRS, ("猫", TEXTS[16]), *((TEXTS[i], TEXTS[-i]) for i in range(8))]
    reranker = Reranker(folder, compute_dtype=compute_dtype)
    classifier = Classifier(folder, compute_dtype=compute_dtype)
    logits, labels = reranker.score(pairs, logits=True), classifier.logits(pairs)
    for i, pair in enumerate(pairs):
        assert reranker.score([pair], logits=True)[0] == logits[i]
        np.testing.assert_array_equal(classifier.logits([pair, pair]), labels[[i, i]])
    order = np.random.default_rng(3).permutation(len(pairs))
    shuffled = [pairs[i] for i in order]
    np.testing.assert_array_equal(reranker.score(shuffled, logits=True), logits[order])
    for num_threads in (1, 3):
        other = Reranker(
            folder, num_threads=num_threads, max_batch_tokens=600, compute_dtype=compute_dtype
        )
        np.testing.assert_array_equal(other.score(pairs, logits=True), logits)
    for num_tokens in (1, 70, 700):
        monkeypatch.setattr(pair_runs, "PART_TOKENS", num_tokens)
        np.testing.assert_array_equal(reranker.score(pairs, logits=True), logits)
        np.testing.assert_array_equal(classifier.logits(pairs), labels)


@pytest.mark.parametrize("encoder", ["onnx", "pytorch"])
def test_batch_mates_of_padding_encoders(folder: Path, encoder: str) -> None:
    reranker = Reranker(folder, encoder=encoder, passages=None)
    logits = reranker.score(PAIRS, logits=True)
    alone = [reranker.score([pair], logits=True)[0] for pair in PAIRS]
    # the layers behind the features widen what batch mates change in a row
    np.testing.assert_allclose(alone, logits, atol=20 * BATCH_MATES, rtol=0)


def test_parts_hold_few_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_runs, "PART_TOKENS", 150)
    scorer, engine = scorer_of(folder)
    plan = scorer.prepare([(query, document) for query in TEXTS[:3] for document in TEXTS])
    num_pairs = []
    for _, part, rows in pair_runs.run_pairs(engine, scorer, plan):
        num_pairs.append(len(part.members))
        assert rows.shape == (part.batch.total_tokens, 64)
        assert len(rows) <= 150 or num_pairs[-1] == 1
    assert sum(num_pairs) == len(plan.members)
    assert max(num_pairs) > 1


def test_a_query_runs_once_however_many_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_runs, "PART_TOKENS", 64)
    reranker = Reranker(folder)
    before, told = reranker.usage, list[tuple[int, int]]()
    documents = [text for text in TEXTS for _ in range(2)]
    ranked = reranker.rank("cats", documents, progress=lambda *counts: told.append(counts))
    after = reranker.usage
    assert after.num_sequences - before.num_sequences == len(TEXTS) + 1
    assert told[-1] == (after.num_tokens - before.num_tokens,) * 2
    assert [count for count, _ in told] == sorted(count for count, _ in told)
    assert len({whole for _, whole in told}) == 1
    assert len(told) > 5
    by_text = {}
    for hit in ranked:  # the same text, the same score
        assert by_text.setdefault(hit.document, hit.logit) == hit.logit


@pytest.mark.parametrize("is_swapped", [False, True])
def test_pairs_of_a_text_are_brought_together(
    folder: Path, is_swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_runs, "PART_TOKENS", 150)
    pairs = [(query, text) for query in ("cats", "dogs", "猫") for text in TEXTS]
    if is_swapped:
        pairs = [(text, query) for query, text in pairs]
    reranker = Reranker(folder)
    before, told = reranker.usage, list[tuple[int, int]]()
    logits = reranker.score(pairs, logits=True, progress=lambda *counts: told.append(counts))
    assert reranker.usage.num_sequences - before.num_sequences == len(TEXTS) + 3
    assert told[-1] == (reranker.usage.num_tokens - before.num_tokens,) * 2
    for pair, logit in zip(pairs, logits, strict=True):
        assert reranker.score([pair], logits=True)[0] == logit


def test_pairs_keep_their_order_where_another_runs_no_fewer_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_runs, "PART_TOKENS", 150)
    scorer, engine = scorer_of(folder)
    plan = scorer.prepare([("cats", text) for text in TEXTS])
    pairs = [pairs for pairs, _, _ in pair_runs.run_pairs(engine, scorer, plan)]
    assert len(pairs) > 1
    assert np.concatenate(pairs).tolist() == list(range(len(TEXTS)))


def test_a_ranking_names_what_was_read(folder: Path) -> None:
    reranker = Reranker(folder, max_length=24, passages=None)
    long = "The cat sat on the mat and looked at the dog. " * 8
    hits = {hit.index: hit for hit in reranker.rank("cat", ["a cat", long])}
    assert not hits[0].is_truncated
    assert hits[0].passage.text == "a cat"
    assert hits[1].is_truncated
    assert long.startswith(hits[1].passage.text)
    assert 0 < len(hits[1].passage.text) < len(long)
    assert reranker.num_truncated == 1
    assert reranker.rank("cat", []) == []
    assert reranker.score([]).shape == (0,)
    assert Classifier(folder).logits([]).shape == (0, 3)


def test_what_is_said_of_such_a_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    reranker = Reranker(folder)
    assert not reranker.is_cross_encoder
    assert "token by token" in reranker.info.notes[0]
    assert "reverse_match" in Classifier(folder).info.notes[0]
    facts = describe(read_checkpoint(folder))
    assert facts["reranks_by"] == "late interaction of token rows"
    assert facts["tasks"]["rerank"].startswith("late interaction of token rows by sharp_match, ")
    # its own tensors are counted, those of both heads once
    embedder = describe(read_checkpoint(checkpoint("multilingual-e5-small")))
    added = (64 + 5 * 64 + 64 + 1) + (6 * 6 + 6 + 6) + (3 * 6 + 3)
    assert facts["parameters"] == embedder["parameters"] + added


@pytest.mark.parametrize(
    "features", [["clean_cosine"], ["document_length", "plain_match"], ["sharp_match"]]
)
def test_some_features_in_another_order(
    features: list[str], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = made(checkpoint, tmp_path, features=features)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["heads.rerank.0.weight"] = torch.eye(6)[: len(features), : len(features)].contiguous()
    tensors["heads.rerank.1.weight"] = torch.ones(1, len(features))
    save_file(tensors, path, {"format": "pt"})
    edit(folder, "classify", late_interaction=None, layers=[], pooling="mean", labels=[])
    layers = [{"weight": "heads.rerank.0.weight"}, {"weight": "heads.rerank.1.weight"}]
    edit(folder, "rerank", layers=layers)
    found = Reranker(folder, passages=None).score(PAIRS, logits=True)
    reference = Reference(folder)
    wanted = [sum(reference.features(*pair)[name] for name in features) for pair in PAIRS]
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


def test_without_directions_and_weight(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = made(checkpoint, tmp_path, directions=None, weight=None)
    scorer, engine = scorer_of(folder)
    plan = scorer.prepare(PAIRS)
    features = scorer.features(plan, engine.run(plan.batch, (), 64))
    reference = Reference(folder)
    reference.tensors["heads.match.directions"] = torch.empty(0, 64)
    reference.tensors["heads.match.weight"] *= 0
    for pair, found in zip(PAIRS, features, strict=True):
        wanted = list(reference.features(*pair).values())
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("document", "limit", "num_kept"),
    [("cats " * 40, 12, 10), ("cats", 12, 2), ("cats", 13, 2), ("cats", 14, 2), ("", 8, 8)],
    ids=["no prompt", "part of it", "just fits", "fits", "nothing else"],
)
def test_texts_cut_at_their_start_lose_the_prompt(
    folder: Path, document: str, limit: int, num_kept: int
) -> None:
    scorer, engine = scorer_of(folder, max_length=limit)
    scorer._builder.side = "left"
    assert len(scorer._prompt_ids[1]) == 9  # and "cats" is two pieces
    plan = scorer.prepare([("cats", document)])
    features = scorer.features(plan, engine.run(plan.batch, (), 64))
    assert round(np.exp(features[0, -1])) == num_kept


def test_labels_need_two_texts(folder: Path) -> None:
    with pytest.raises(InputError, match="must be pairs of texts"):
        Classifier(folder).classify(["cats"])


def test_the_gate_compares_such_heads(folder: Path) -> None:
    contender = Contender(str(folder), EngineConfig())
    vectors, logits, scores = PairRun(contender, "rerank")(PAIRS)
    np.testing.assert_array_equal(
        logits[:, 0], Reranker(folder, passages=None).score(PAIRS, logits=True)
    )
    np.testing.assert_array_equal(scores[:, 0], Reranker(folder, passages=None).score(PAIRS))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    documents = [document for _, document in PAIRS]
    wanted = Embedder(folder, long_texts="truncate").encode(documents, input_type="document")
    np.testing.assert_allclose(units, wanted, atol=1e-6)
    _, logits, scores = PairRun(contender, "classify")(PAIRS)
    np.testing.assert_array_equal(logits, Classifier(folder).logits(PAIRS))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": []}, "features must be different ones of sharp_match"),
        ({"features": ["sharp_match", "luck"]}, "features must be different ones of sharp_match"),
        (
            {"features": ["sharp_match", "sharp_match"]},
            "features must be different ones of sharp_match",
        ),
        ({"features": None}, "polyrank_heads wrongly"),
        ({"center": None}, "polyrank_heads wrongly"),
        ({"center": 7}, "polyrank_heads wrongly"),
        ({"directions": ["a"]}, "polyrank_heads wrongly"),
        ({"weight": "heads.match.weight"}, "polyrank_heads wrongly"),
    ],
)
def test_blocks_that_cannot_be_read(
    changes: dict[str, object], message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(made(checkpoint, tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "mean"}, "pooling beside late_interaction"),
        ({"similarity_weight": 2.0}, "must be left out"),
        ({"normalize": True}, "without normalize"),
        ({"labels": []}, "must name one label"),
        ({"labels": ["a", "b"]}, "must name one label"),
    ],
)
def test_heads_that_cannot_be_read(
    changes: dict[str, object], message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = made(checkpoint, tmp_path)
    edit(folder, "rerank", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_an_embed_head_is_needed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = made(checkpoint, tmp_path)
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match="no embed head"):
        read_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    heads = config["polyrank_heads"]
    config["polyrank_heads"] = {"embed": heads["rerank"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="only rerank and classify"):
        read_checkpoint(folder)
    config["polyrank_heads"] = heads | {"embed": {"pooling": "mean", "normalize": True}}
    (folder / "config.json").write_text(json.dumps(config))
    assert Reranker(folder).score([("cats", "dogs")]).shape == (1,)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("heads.match.center", torch.zeros(63), CorruptWeightsError, "shape"),
        ("heads.match.center", torch.full((64,), torch.nan), CorruptWeightsError, "NaN"),
        ("heads.match.center", None, MissingWeightError, "heads.match.center"),
        ("heads.match.directions", torch.eye(64)[:2, :63].clone(), CorruptWeightsError, "shape"),
        ("heads.match.directions", torch.ones(2, 64) / 8, CheckpointError, "right angles"),
        ("heads.match.directions", 2 * torch.eye(64), CheckpointError, "unit length"),
        ("heads.match.directions", torch.tensor(1.0), CorruptWeightsError, "shape"),
        ("heads.match.weight", torch.ones(1, 65), CorruptWeightsError, "shape"),
        ("heads.match.weight", torch.ones(2, 64), CheckpointError, r"one value|shape"),
        ("heads.match.bias", torch.full((1,), torch.inf), CorruptWeightsError, "infinity"),
        ("heads.rerank.0.weight", torch.ones(6, 7), CorruptWeightsError, "shape"),
        ("heads.rerank.1.weight", torch.ones(2, 6), CheckpointError, "2 values"),
    ],
)
def test_tensors_that_do_not_fit(
    name: str,
    value: torch.Tensor | None,
    error: type[Exception],
    message: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    folder = made(checkpoint, tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    if value is not None:
        tensors[name] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(error, match=message):
        Reranker(folder)


def test_features_are_all_tested() -> None:
    assert MATCH_FEATURES == LATE_FEATURES
