import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli.app import app
from polyrank.errors import CapabilityError, CheckpointError, ConfigError, DataError, TrainingError
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.training.finetune.losses import LIST_SHARPNESS, PairLoss
from polyrank.training.finetune.monitor import MonitorConfig
from polyrank.training.finetune.run import TrainingJob, train
from polyrank.training.finetune.start import load_start
from polyrank.training.finetune.trainers import settle_compute_dtype
from tests.toys import MARK, marked_beir, marked_rows, write_lines

PAIRS = [
    ("cats", f"cats {MARK}"),
    ("cats", "cats Jahre"),
    ("Katzen", "leben"),
    ("does", "does ans"),
]
QUICK = {"max_length": 24, "learning_rate": 1e-3, "batch_size": 8}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    rows = marked_rows()
    write_lines(folder / "rows.jsonl", rows)
    marked_beir(folder / "dev")
    labelled = [
        {"query": row["query"], "passage": row[kind][0], "label": label}
        for row in marked_rows(30, seed=5)
        for kind, label in (
            ("positives", "relevant"),
            ("neutrals", "neutral"),
            ("negatives", "irrelevant"),
        )
    ]
    write_lines(folder / "labels.jsonl", labelled)
    return folder


def job_for(toys, start, output, task="reranker", measured="dev", **settings):
    config = TrainingConfig(task, **{**QUICK, "steps": 30, "evaluations": 2, **settings})
    monitor = MonitorConfig(toys / measured) if measured else None
    data = (DataSource(toys / "rows.jsonl"),)
    return TrainingJob(
        str(start), data, output, config, monitor=monitor, use_miner=False, num_threads=1
    )


def assert_learnt(record, least=0.05):
    losses = [entry["loss"] for entry in record["losses"]]
    values = [entry["value"] for entry in record["evaluations"]]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert record["best"]["value"] > values[0] + least
    assert [entry["step"] for entry in record["evaluations"]] == [0, 15, 30]


@pytest.fixture(scope="module")
def trained_reranker(checkpoint_folder, toys, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "reranker"
    return train(job_for(toys, checkpoint_folder("bge-reranker-base"), output))


@pytest.fixture(scope="module")
def checkpoint_folder(request):
    return request.getfixturevalue("checkpoint")


def test_a_reranker_learns_to_rank(trained_reranker):
    assert trained_reranker.is_complete
    assert_learnt(trained_reranker.record)


def test_a_trained_reranker_scores_the_same_everywhere(trained_reranker):
    folder = trained_reranker.folder
    ours = Reranker(folder).score(PAIRS, logits=True)
    theirs = CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(
        ours, theirs.predict(PAIRS, activation_fn=torch.nn.Identity()), atol=1e-4
    )
    np.testing.assert_allclose(Reranker(folder).score(PAIRS), theirs.predict(PAIRS), atol=1e-4)
    tokens = AutoTokenizer.from_pretrained(folder)(*zip(*PAIRS, strict=True), padding=True)
    bare = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = bare(**{key: torch.tensor(value) for key, value in tokens.items()}).logits
    np.testing.assert_allclose(ours, logits[:, 0], atol=1e-4)


def test_a_trained_folder_keeps_what_the_start_had(trained_reranker, checkpoint):
    before = checkpoint("bge-reranker-base")
    after = trained_reranker.folder
    old, new = read_checkpoint(before), read_checkpoint(after)
    assert new.spec.max_length == old.spec.max_length
    assert new.spec.heads == old.spec.heads
    assert (after / "tokenizer.json").read_bytes() == (before / "tokenizer.json").read_bytes()
    words = "embeddings.word_embeddings.weight"  # frozen
    np.testing.assert_array_equal(new.body_float32(words), old.body_float32(words))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (before, after)]
    assert configs[0]["hidden_dropout_prob"] == configs[1]["hidden_dropout_prob"] == 0.1


def test_the_record_tells_the_run_without_telling_the_place(trained_reranker, toys):
    folder = trained_reranker.folder
    text = (folder / "training.json").read_text("utf8")
    record = json.loads(text)
    assert record == json.loads(json.dumps(trained_reranker.record))
    assert str(toys) not in text
    assert str(folder.parent) not in text
    assert record["data"][0]["num_lists"] == record["num_lists"] == 240
    assert record["settings"]["losses"] == {"listnet": 1.0, "bce": 0.3}
    assert record["versions"]["sentence-transformers"]
    assert (folder / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not folder.with_name("reranker.checkpoints").exists()
    modes = {path.stat().st_mode for path in folder.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_a_classifier_learns_the_three_labels(checkpoint, toys, tmp_path):
    start = checkpoint("three-way-classifier")
    settings = {"steps": 60, "evaluations": 1}
    outcome = train(
        job_for(toys, start, tmp_path / "out", "classifier", "labels.jsonl", **settings)
    )
    record = outcome.record
    assert record["best"]["measure"] == "macro-F1"
    assert record["best"]["value"] > record["evaluations"][0]["value"] + 0.2
    classifier = Classifier(outcome.folder)
    assert classifier.labels == ("irrelevant", "neutral", "relevant")
    given = CrossEncoder(str(outcome.folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(classifier.logits(PAIRS), given, atol=1e-4)


def test_an_embedder_learns_and_keeps_modules_and_prompts(checkpoint, toys, tmp_path):
    start = checkpoint("multilingual-e5-small")
    outcome = train(job_for(toys, start, tmp_path / "out", "embedder", hard_negatives=2))
    assert_learnt(outcome.record, least=0.01)
    embedder = Embedder(outcome.folder)
    assert embedder.spec.prompts == Embedder(start).spec.prompts
    assert embedder.spec.heads == Embedder(start).spec.heads
    texts = ["How long do cats live?", "x"]
    theirs = SentenceTransformer(str(outcome.folder), device="cpu")
    np.testing.assert_allclose(
        embedder.encode(texts, input_type="query"),
        theirs.encode(texts, prompt_name="query"),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("task", "start", "settings"),
    [
        ("reranker", "bert-reranker", {"loss": "lambda"}),
        ("reranker", "bge-reranker-base", {"loss": "bce"}),
        ("reranker", "bge-reranker-base", {"compute_dtype": "bfloat16"}),
        ("reranker", "bge-reranker-base", {"compute_dtype": "float32"}),
        ("reranker", "bge-reranker-base", {"loss": "margin-mse", "teacher_scale": 5.0}),
        ("reranker", "bge-reranker-base", {"loss": "mse"}),
        ("reranker", "bge-reranker-base", {"loss": "distill", "second_weight": 0.1}),
        ("embedder", "multilingual-e5-large", {"loss": "margin-mse"}),
        ("embedder", "UAE-Large-V1", {"loss": "distill", "second_weight": 0.5}),
        ("embedder", "dense-embedder", {"batch_size": 128}),
    ],
)
def test_every_loss_runs_and_falls(checkpoint, toys, tmp_path, task, start, settings):
    cached = settings.get("batch_size") == 128
    steps = 3 if cached else 12
    job = job_for(toys, checkpoint(start), tmp_path / "out", task, None, steps=steps, **settings)
    if job.config.needs_scores:
        job = replace(job, teacher=str(checkpoint("multilingual-e5-small")))
    losses = [entry["loss"] for entry in train(job).record["losses"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("head", ["auto", "cls", "transformers"])
def test_a_new_head_on_an_embedder(checkpoint, toys, tmp_path, head):
    start = checkpoint("multilingual-e5-small")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=2, head=head)
    outcome = train(job)
    assert outcome.record["is_new_head"]
    ours = Reranker(outcome.folder)
    assert ours.is_cross_encoder
    pooling = {"auto": "mean", "cls": "cls", "transformers": "cls"}[head]
    assert ours.spec.heads["rerank"].pooling == (pooling,)
    theirs = CrossEncoder(str(outcome.folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(ours.score(PAIRS), theirs, atol=1e-4)


def test_a_new_classifier_head_has_the_three_labels(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    outcome = train(job_for(toys, start, tmp_path / "out", "classifier", None, steps=2))
    classifier = Classifier(outcome.folder)
    assert classifier.labels == ("irrelevant", "neutral", "relevant")
    given = CrossEncoder(str(outcome.folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(classifier.logits(PAIRS), given, atol=1e-4)


def test_labels_in_another_order_stay_in_theirs(checkpoint, toys, tmp_path):
    start = tmp_path / "start"
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("three-way-classifier"))
    model.config.id2label = {0: "Relevant", 1: "Irrelevant", 2: "Neutral"}
    model.save_pretrained(start)
    AutoTokenizer.from_pretrained(checkpoint("three-way-classifier")).save_pretrained(start)
    job = job_for(toys, start, tmp_path / "out", "classifier", "labels.jsonl", steps=60)
    outcome = train(job)
    assert Classifier(outcome.folder).labels == ("Relevant", "Irrelevant", "Neutral")
    assert outcome.record["best"]["value"] > 0.5
    (found,) = Classifier(outcome.folder).classify([("cats", f"cats {MARK}")])
    assert found.label == "Relevant"


def weights_of(folder):
    weights = read_checkpoint(folder).weights
    return {name: weights.get_float32(name) for name in weights}


class Killed(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    settings = {"measured": None, "steps": 12, "evaluations": 3}
    whole = train(job_for(toys, start, tmp_path / "whole", **settings))

    def kill(step, done, total, note=""):
        if step == "training (steps)" and done == 7:
            raise Killed

    job = job_for(toys, start, tmp_path / "broken", **settings)
    with pytest.raises(Killed):
        train(job, progress=kill)
    assert not job.output.exists()
    with pytest.raises(ConfigError, match="--resume"):
        train(job)
    resumed = train(replace(job, resume=True))
    expected, found = weights_of(whole.folder), weights_of(resumed.folder)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert resumed.record["losses"] == whole.record["losses"]


@pytest.mark.parametrize("limit", [{"steps": 5}, {"steps": None, "minutes": 0.02}])
def test_a_run_counts_its_own_steps(checkpoint, toys, tmp_path, limit):
    seen: list[tuple[int, int]] = []

    def note(step, done, total, note=""):
        if step == "training (steps)":
            seen.append((done, total))

    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out", measured=None, **limit)
    record = train(job, progress=note).record
    assert [done for done, _ in seen] == list(range(1, record["num_steps"] + 1))
    assert all(done <= total for done, total in seen)
    assert seen[-1] == (record["num_steps"], record["num_steps"])
    if limit["steps"] is not None:
        assert {total for _, total in seen} == {limit["steps"]}
    assert record["num_lists"] == record["num_steps"] * job.config.lists_per_step


def test_a_second_run_of_the_same_output_is_told_who_holds_it(checkpoint, toys, tmp_path):
    told: list[ConfigError] = []

    def begin_again(step, done, total, note=""):
        if step == "training (steps)" and done == 1:
            with pytest.raises(
                ConfigError, match=f"another process .number {os.getpid()}"
            ) as error:
                train(replace(job, resume=True))
            told.append(error.value)

    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out", measured=None, steps=2)
    assert train(job, progress=begin_again).is_complete
    assert told


def test_ctrl_c_saves_what_is_there(checkpoint, toys, tmp_path):
    def interrupt(step, done, total, note=""):
        if step == "training (steps)" and done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=8, evaluations=1)
    stopped = train(job, progress=interrupt)
    assert not stopped.is_complete
    assert 5 <= stopped.record["num_steps"] < 8
    assert len(Reranker(stopped.folder).score(PAIRS)) == len(PAIRS)
    finished = train(replace(job, resume=True))
    assert finished.is_complete
    assert finished.record["num_steps"] == 8
    assert not job.checkpoints.exists()
    with pytest.raises(ConfigError, match="exists already"):
        train(job)


def test_low_rank_adapters_merge_without_a_change(checkpoint, toys, tmp_path):
    settings = {"lora_rank": 4, "measured": None, "steps": 6}
    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out", **settings)
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    start = load_start(opened, job.config, "cpu")
    names = [name for name, p in start.model.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in names)
    assert all("lora_" in name or ".classifier." in name for name in names)
    with torch.no_grad():
        for name, parameter in start.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    unmerged = start.model.predict(PAIRS)
    start.save(tmp_path / "merged")
    np.testing.assert_allclose(Reranker(tmp_path / "merged").score(PAIRS), unmerged, atol=1e-5)
    assert weights_of(tmp_path / "merged").keys() == weights_of(opened.spec.folder).keys()
    outcome = train(job)
    assert outcome.record["num_trainable"] < sum(
        v.size for v in weights_of(outcome.folder).values()
    )
    changed = weights_of(outcome.folder)
    name = "roberta.encoder.layer.0.attention.self.query.weight"
    assert not np.array_equal(changed[name], weights_of(opened.spec.folder)[name])


def test_the_sum_of_losses_is_what_the_library_computes(checkpoint):
    model = CrossEncoder(str(checkpoint("bge-reranker-base")), device="cpu")
    model.eval()
    config = TrainingConfig("reranker", second_weight=0.5, max_batch_tokens=32)
    loss = PairLoss(model, config, ())
    queries = ["cats", "Katzen leben"]
    passages = [[f"cats {MARK} or longer than that", "x"], ["leben", "eine Hauskatze", "ans"]]
    labels = [torch.tensor([[2.0, 0], [0, 0]]), torch.tensor([[0.0, 0], [2, 0], [1, 0]])]
    found = loss([queries, passages], labels)
    one_hot = [(own[:, 0] == 2).float() for own in labels]
    listnet = ListNetLoss(model)([queries, passages], [own * LIST_SHARPNESS for own in one_hot])
    pairs = [
        [query for query, own in zip(queries, passages, strict=True) for _ in own],
        [text for own in passages for text in own],
    ]
    bce = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(4.0))(pairs, torch.cat(one_hot))
    assert found["listnet"].item() == pytest.approx(listnet.item(), abs=1e-5)
    assert found["bce"].item() == pytest.approx(0.5 * bce.item(), abs=1e-5)


def test_the_best_state_is_kept(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", steps=40, evaluations=4, learning_rate=1e-3)
    outcome = train(job)
    best = outcome.record["best"]
    assert best["value"] == max(entry["value"] for entry in outcome.record["evaluations"])


def test_minutes_end_a_run(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=None, minutes=0.03)
    outcome = train(job)
    assert outcome.is_complete
    assert 0 < outcome.record["num_steps"] < 1000


def test_bfloat16_is_taken_where_it_is_quicker():
    asked = TrainingConfig("reranker", compute_dtype="bfloat16")
    assert settle_compute_dtype(asked, "cpu") == "bfloat16"
    has_amx = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    automatic = settle_compute_dtype(TrainingConfig("reranker"), "cpu")
    assert automatic == ("bfloat16" if has_amx else "float32")


# hostile calls


def test_impossible_starts_are_named(checkpoint, toys, tmp_path):
    def run(start, task="reranker", **settings):
        train(job_for(toys, start, tmp_path / "out", task, None, steps=1, **settings))

    with pytest.raises(CapabilityError, match="makes no vectors"):
        run(checkpoint("bge-reranker-base"), "embedder")
    with pytest.raises(ConfigError, match="has a head for this task"):
        run(checkpoint("bge-reranker-base"), head="mean")
    with pytest.raises(ConfigError, match="has the labels"):
        run(checkpoint("multi-label-classifier"), "classifier")
    with pytest.raises(CheckpointError, match="neither a folder"):
        run(tmp_path / "no where")


def test_several_heads_are_refused(checkpoint, toys, tmp_path):
    start = tmp_path / "start"
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint("bge-reranker-base"))
    model.config.polyrank_heads = {"embed": {"pooling": "mean"}}
    model.save_pretrained(start)
    AutoTokenizer.from_pretrained(checkpoint("bge-reranker-base")).save_pretrained(start)
    with pytest.raises(CapabilityError, match="several heads"):
        train(job_for(toys, start, tmp_path / "out", measured=None))


def test_contradicting_jobs_are_named(checkpoint, toys, tmp_path):
    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out", measured=None, steps=1)
    with pytest.raises(ConfigError, match="nothing to resume"):
        train(replace(job, resume=True))
    with pytest.raises(ConfigError, match="nothing to train on"):
        train(replace(job, data=()))
    with pytest.raises(ConfigError, match="asks none"):
        train(replace(job, teacher=str(checkpoint("bge-reranker-base"))))
    both = replace(job, data=(DataSource(toys / "dev"),), monitor=MonitorConfig(toys / "dev"))
    with pytest.raises(ConfigError, match="both trained and measured"):
        train(both)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        train(job)


def test_other_settings_do_not_resume(checkpoint, toys, tmp_path):
    def kill(step, done, total, note=""):
        raise Killed

    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=4)
    with pytest.raises(Killed):
        train(job, progress=kill)
    other = replace(job, config=replace(job.config, learning_rate=2e-3), resume=True)
    with pytest.raises(ConfigError, match=r"learning_rate 0\.001, now 0\.002"):
        train(other)


def test_a_run_that_left_no_checkpoint_is_no_obstacle(checkpoint, toys, tmp_path):
    def kill(step, done, total, note=""):
        raise Killed

    job = job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out", measured=None, steps=2)
    with pytest.raises(Killed):
        train(job, progress=kill)
    assert train(job).record["num_steps"] == 2


def test_a_broken_checkpoint_is_named(checkpoint, toys, tmp_path):
    def kill(step, done, total, note=""):
        if step == "training (steps)" and done == 3:
            raise Killed

    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=4, evaluations=2)
    with pytest.raises(Killed):
        train(job, progress=kill)
    state = job.checkpoints / "checkpoint-2" / "trainable.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(replace(job, resume=True))


def test_a_loss_that_is_no_number_ends_the_run(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    job = job_for(toys, start, tmp_path / "out", measured=None, steps=50, learning_rate=1e30)
    with pytest.raises(TrainingError, match="--learning-rate"):
        train(job)


# the command


def call(*arguments):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_trains_and_tells(checkpoint, toys, tmp_path):
    start, output = checkpoint("multilingual-e5-small"), tmp_path / "out"
    options = [
        "--steps",
        4,
        "--batch-size",
        8,
        "--set",
        "max_length=24",
        "--set",
        "threads=1",
    ]
    file = tmp_path / "run.toml"
    file.write_text(
        f"""steps = 1000
evaluations = 1
miner = {json.dumps(str(start))}
cache_dir = {json.dumps(str(tmp_path / "cache"))}
hard_negatives = 2
eval_retriever = {json.dumps(str(start))}
eval_mode = "all"
""",
        "utf8",
    )
    mining = ["--config", file]
    measuring = ["--eval-data", toys / "dev"]
    data = ["--data", f"{toys / 'rows.jsonl'}:2", "-o", output]
    result = call("reranker", start, *data, *options, *mining, *measuring)
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["folder"] == str(output)
    assert facts["miner"] == start.name
    assert len(facts["evaluations"]) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert "training.png" in result.stderr


def test_wrong_calls_of_the_command(checkpoint, toys, tmp_path):
    start = checkpoint("bge-reranker-base")
    with pytest.raises(ConfigError, match="--data"):
        call("reranker", start, "--output", tmp_path / "o")
    with pytest.raises(ConfigError, match="cannot be trained with the loss 'hinge'"):
        call("reranker", start, "-d", "x", "-o", tmp_path / "o", "--loss", "hinge")
    assert call("reranker", start, "-d", "x", "--steps", "many").exit_code == 2
    with pytest.raises(DataError, match="neither a file nor a folder"):
        call("reranker", start, "-d", tmp_path / "none", "-o", tmp_path / "o")
    assert "teacher" not in call("classifier", "--help").stdout
