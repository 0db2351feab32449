import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import CapabilityError, ConfigError, TrainingError
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.training.joint import JointLive, load_joint
from polyrank.training.monitor import MonitorConfig
from polyrank.training.pipeline import Job, train
from polyrank.training.replicas import (
    LocalReplica,
    ProcessReplicas,
    mean_rows,
    plan_shapes,
    share_out,
    trained,
)
from tests.toys import MARK, marked_beir, marked_rows, write_lines

PAIRS = [("cats", f"cats {MARK}"), ("cats", "cats Jahre"), ("does", f"does ans {MARK}")]
SEQUENCES = [[0, *range(5, 5 + n), 2] for n in (1, 3, 9, 14, 15, 16, 22, 30, 40, 40, 7)]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    write_lines(folder / "rows.jsonl", marked_rows())
    marked_beir(folder / "dev")
    return folder


def job_for(toys, start, output, *, num_threads=1, measured="dev", **settings):
    given = {"max_length": 24, "learning_rate": 1e-3, "batch_size": 8, "steps": 30}
    given |= {"evaluations": 2, "keep_weight": 5.0, "precision": "float32", **settings}
    monitor = MonitorConfig(toys / measured) if measured else None
    return Job(
        str(start),
        (DataSource(toys / "rows.jsonl"),),
        output,
        TrainingConfig("joint", **given),
        monitor=monitor,
        use_miner=False,
        num_threads=num_threads,
    )


@pytest.fixture(scope="module")
def outcome(request, toys, tmp_path_factory):
    checkpoint = request.getfixturevalue("checkpoint")
    output = tmp_path_factory.mktemp("joint") / "out"
    return train(job_for(toys, checkpoint("multilingual-e5-small"), output, steps=60))


def test_one_body_learns_three_tasks(outcome):
    record = outcome.record
    assert outcome.is_complete
    values = [entry["value"] for entry in record["evaluations"]]
    assert record["best"]["value"] > values[0] + 0.05
    first, last = record["losses"][0], record["losses"][-1]
    assert set(first) == {"step", "loss", "blended", "alone", "bce", "classes", "keep"}
    assert last["alone"] < 0.8 * first["alone"]
    folder = outcome.folder
    assert set(read_checkpoint(folder).spec.heads) == {"rerank", "classify", "embed"}
    # by the logit alone: the cosines of a seeded embedder are noise
    fresh, reranker = marked_rows(20, seed=9), Reranker(folder, add_similarity=False)
    scores = {
        kind: reranker.score([(row["query"], row[kind][0]) for row in fresh], logits=True)
        for kind in ("positives", "negatives")
    }
    assert np.mean(scores["positives"] > scores["negatives"]) > 0.75
    assert Classifier(folder).labels == ("irrelevant", "neutral", "relevant")
    assert (folder / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_folder_scores_as_the_model_did(checkpoint, toys, tmp_path):
    """Logits with and without the cosine, probabilities and vectors, up to the offset."""
    opened = read_checkpoint(checkpoint("multilingual-e5-small"))
    config = TrainingConfig("joint", precision="float32")
    start = load_joint(opened, config, "cpu")
    with torch.no_grad():
        start.model.heads.bias.uniform_(-1, 1)
        start.model.offset.fill_(0.75)
        start.model.log_weight.fill_(2.0)
        for parameter in trained(start.model.body):
            parameter.mul_(1.01)
    start.center = 0.5
    start.save(tmp_path / "out")

    class Trainer:
        embedder = Embedder(tmp_path / "out")
        replicas = LocalReplica(start.model.body, is_bfloat16=False, max_tokens=256)

    Trainer.start = start
    live = JointLive(Trainer)
    weight = float(np.exp(2.0))
    reranker = Reranker(tmp_path / "out")
    np.testing.assert_allclose(
        reranker.score(PAIRS, logits=True), live.score(PAIRS) + 0.75 - weight * 0.5, atol=2e-4
    )
    texts = [text for pair in PAIRS for text in pair]
    vectors = Embedder(tmp_path / "out").encode(texts, input_type="query")
    np.testing.assert_allclose(vectors, live.encode(texts, input_type="query"), atol=1e-5)
    given = [
        [result.probabilities[label] for label in ("irrelevant", "neutral", "relevant")]
        for result in Classifier(tmp_path / "out").classify(PAIRS)
    ]
    np.testing.assert_allclose(given, live.probabilities(PAIRS), atol=1e-5)


def test_training_goes_on_from_its_own_folder(outcome, toys, tmp_path):
    job = job_for(toys, outcome.folder, tmp_path / "more", steps=2, learning_rate=1e-9)
    job = replace(job, config=replace(job.config, head_learning_rate=1e-9), monitor=None)
    after = train(job).folder
    np.testing.assert_allclose(
        Reranker(after).score(PAIRS, logits=True),
        Reranker(outcome.folder).score(PAIRS, logits=True),
        atol=1e-3,
    )
    before, now = (Classifier(f).logits(PAIRS) for f in (outcome.folder, after))
    np.testing.assert_allclose(now, before, atol=1e-4)


def test_vectors_are_held(checkpoint, toys, tmp_path):
    start = checkpoint("multilingual-e5-small")
    texts = [f"{query} {text}" for query, text in PAIRS]
    before = Embedder(start).encode(texts)
    kept = {}
    for weight in (0.0, 200.0):
        job = job_for(toys, start, tmp_path / f"{weight}", measured=None, keep_weight=weight)
        after = Embedder(train(job).folder).encode(texts)
        kept[weight] = np.einsum("nd,nd->n", before, after).mean()
    assert kept[200.0] > kept[0.0]
    assert kept[200.0] > 0.99


def test_processes_learn_what_one_thread_learns(checkpoint, toys, tmp_path):
    start, settings = checkpoint("multilingual-e5-small"), {"measured": None, "steps": 4}
    one = train(job_for(toys, start, tmp_path / "one", num_threads=1, **settings))
    two = train(job_for(toys, start, tmp_path / "two", num_threads=2, **settings))
    for mine, theirs in zip(one.record["losses"], two.record["losses"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


def test_a_resumed_run_equals_an_uninterrupted_one(checkpoint, toys, tmp_path):
    start = checkpoint("multilingual-e5-small")
    settings = {"measured": None, "steps": 9, "evaluations": 3}
    whole = train(job_for(toys, start, tmp_path / "whole", **settings))

    def kill(step, done, total, note=""):
        if step == "training" and "step 5" in note:
            raise KeyboardInterrupt

    job = job_for(toys, start, tmp_path / "broken", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(job, progress=kill)
    resumed = train(replace(job, resume=True))
    expected = load_file(whole.folder / "model.safetensors")
    found = load_file(resumed.folder / "model.safetensors")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not job.checkpoints.exists()


def test_a_dead_process_is_named(checkpoint):
    start = load_joint(
        read_checkpoint(checkpoint("multilingual-e5-small")), TrainingConfig("joint"), "cpu"
    )
    replicas = ProcessReplicas(start.model.body, 2, is_bfloat16=False, max_tokens=256)
    try:
        replicas.forward(SEQUENCES)
        replicas._processes[1].kill()
        replicas._processes[1].join()
        with pytest.raises(TrainingError, match="memory ran out"):
            replicas.forward(SEQUENCES)
    finally:
        replicas.close()


def test_copies_give_rows_and_gradients_of_the_body(checkpoint):
    folder = checkpoint("multilingual-e5-small")
    config = TrainingConfig("joint")
    upstream = np.random.default_rng(3).normal(size=(len(SEQUENCES), 64)).astype(np.float32)
    results = []
    for make in (
        lambda body: LocalReplica(body, is_bfloat16=False, max_tokens=64),
        lambda body: ProcessReplicas(body, 2, is_bfloat16=False, max_tokens=128),
    ):
        start = load_joint(read_checkpoint(folder), config, "cpu")
        replicas = make(start.model.body)
        try:
            rows = replicas.forward(SEQUENCES)
            replicas.start_backward(upstream)
            replicas.finish_backward()
        finally:
            replicas.close()
        results.append((rows, [p.grad.numpy().copy() for p in trained(start.model.body)]))
    body = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.no_grad():
        for row, ids in zip(results[0][0], SEQUENCES, strict=True):
            alone = body(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
            np.testing.assert_allclose(row, alone, atol=1e-5)
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-5)
    for mine, theirs in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
        assert np.abs(mine).sum() >= 0


def test_shapes_cover_every_sequence_once():
    generator = np.random.default_rng(1)
    for _ in range(50):
        lengths = generator.integers(1, 200, generator.integers(1, 80)).tolist()
        batches = plan_shapes(lengths, 1024)
        assert sorted(i for rows, _, _ in batches for i in rows) == list(range(len(lengths)))
        for rows, num_rows, columns in batches:
            assert len(rows) <= num_rows
            assert all(lengths[i] <= columns for i in rows)
            assert num_rows == 1 or num_rows * columns <= 1024 * 1.5
    shares = share_out(lengths, 3)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))


def test_mean_rows_do_not_depend_on_the_batch(checkpoint):
    body = AutoModel.from_pretrained(checkpoint("multilingual-e5-small"), add_pooling_layer=False)
    with torch.no_grad():
        many = mean_rows(body, SEQUENCES, 2048)
        few = mean_rows(body, SEQUENCES, 32)
    np.testing.assert_allclose(many, few, atol=1e-5)


def test_impossible_starts_are_named(checkpoint, toys, tmp_path):
    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out")
    with pytest.raises(CapabilityError, match="embedding checkpoint"):
        train(job)
    with pytest.raises(ConfigError, match="keep_weight"):
        TrainingConfig("joint", keep_weight=-1.0)


def test_the_record_says_what_was_done(outcome):
    record = json.loads((outcome.folder / "training.json").read_text("utf8"))
    assert record["task"] == "joint"
    assert record["settings"]["keep_weight"] == 5.0
    assert record["num_lists"] == 480
