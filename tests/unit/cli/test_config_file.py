"""Settings from a file, from --set and from options: what overrules what, and what is refused."""

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyrank.cli.app import app
from polyrank.cli.config_file import checked, commented, read_settings
from polyrank.cli.fields import sentences, settings_of
from polyrank.cli.settings import FINETUNING, OTHERS
from polyrank.cli.train.finetuning import _job
from polyrank.cli.train.options import TrainRunSettings, finetuning_settings
from polyrank.errors import ConfigError
from polyrank.training.config import TrainingConfig

KNOWN = finetuning_settings("reranker")
NOTHING = {"config": None, "assignments": None}


def read(typed=(), assignments=(), file=None, known=KNOWN):
    given = {"config": file, "assignments": list(assignments), **dict(typed)}
    return read_settings(known, given, "train reranker")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "start"\ndata = ["a.jsonl:2", "b"]\noutput = "mine"\nsteps = 7\nepochs = 2\n'
        'loss = "bce"\nhead = "mean"\nfreeze_embeddings = false\n',
        "utf8",
    )
    return path


def test_an_option_overrules_set_which_overrules_the_file(file):
    values = read({"loss": "lambda"}, ["loss=mse", "steps=9", "eval_mode=cross"], file)
    assert values["loss"] == "lambda"
    assert values["steps"] == 9
    assert values["eval_mode"] == "cross"
    assert values["data"] == ("a.jsonl:2", "b")
    assert values["output"] == Path("mine")
    assert (values["epochs"], type(values["epochs"])) == (2.0, float)
    assert values["freeze_embeddings"] is False
    assert "batch_size" not in values


def test_a_file_alone_makes_a_job(file):
    job = _job("reranker", {**NOTHING, "config": file}, resume=False)
    assert job.model == "start"
    assert [source.weight for source in job.data] == [2.0, None]
    assert job.output == Path("mine").absolute()
    assert (job.config.steps, job.config.head, job.config.main_loss) == (7, "mean", "bce")
    typed = {**NOTHING, "config": file, "data": ["c"], "output": Path("other")}
    job = _job("reranker", typed, resume=True)
    assert [source.path for source in job.data] == [Path("c")]
    assert (job.output.name, job.resume) == ("other", True)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("learnin_rate=1", "no setting 'learnin_rate'. Did you mean learning_rate?"),
        ("steps=many", "steps must be a whole number, not 'many'"),
        ("steps=1.5", "steps must be a whole number, not 1.5"),
        ("steps=true", "steps must be a whole number, not True"),
        ("dropout=[]", r"dropout must be a number, not \[\]"),
        ("freeze_embeddings=1", "freeze_embeddings must be true or false, not 1"),
        ("head=tail", "head must be one of auto, mean, cls, transformers, not 'tail'"),
        ("data=[1]", r"data must be a list of texts, not \[1\]"),
        ("cache_dir=3", "cache_dir must be a path, not 3"),
        ("miner=3", "miner must be a text, not 3"),
        ("steps", "--set wants KEY=VALUE, not 'steps'"),
        ("task=embedder", "no setting 'task'"),
    ],
)
def test_what_is_refused(assignment, words):
    with pytest.raises(ConfigError, match=words):
        read(assignments=[assignment])


def test_files_that_cannot_be_read(tmp_path):
    for content, words in ((b"steps = ", "is no TOML"), (b"\xff", "is no TOML")):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            read(file=tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = 'x'")
    with pytest.raises(ConfigError, match=r"bad\.toml: steps must be a whole number"):
        read(file=tmp_path / "bad.toml")


def test_a_task_has_its_own_settings():
    with pytest.raises(ConfigError, match="no setting 'teacher'"):
        read(assignments=["teacher=x"], known=finetuning_settings("classifier"))
    with pytest.raises(ConfigError, match="no setting 'head'"):
        read(assignments=["head=cls"], known=finetuning_settings("embedder"))


def test_what_must_be_named():
    with pytest.raises(ConfigError, match="--data"):
        _job("reranker", NOTHING, resume=False)
    with pytest.raises(ConfigError, match="--output"):
        _job("reranker", {**NOTHING, "data": ["x"]}, resume=False)


@pytest.mark.parametrize("command", [*FINETUNING, *OTHERS])
def test_the_printed_file_says_everything_and_changes_nothing(command):
    printed = CliRunner().invoke(app, ["settings", *command.split()]).stdout
    assert tomllib.loads(printed) == {}
    known = OTHERS.get(command) or finetuning_settings(FINETUNING[command])
    assert all(setting.sentence for setting in known.values())
    # with the # before keys taken away, the file says what the defaults are
    active = re.sub(r"^#(\w+ = )", r"\1", printed, flags=re.MULTILINE)
    for name, value in tomllib.loads(active).items():
        read = checked(known, name, value, "the file", command)
        assert known[name].default in (None, MISSING, read)


def test_the_printed_defaults_are_the_tasks():
    printed = CliRunner().invoke(app, ["settings", "train", "embedder"]).stdout
    assert "\n#batch_size = 64\n" in printed
    assert "\n#learning_rate = 3e-05\n" in printed
    assert "\n#steps =\n" in printed
    unknown = CliRunner().invoke(app, ["settings", "serve"])
    assert isinstance(unknown.exception, ConfigError)
    assert "train late-interaction, train first-stage-weight" in str(unknown.exception)


def test_every_setting_is_explained():
    for cls in (TrainingConfig, TrainRunSettings):
        assert set(sentences(cls)) == {field.name for field in fields(cls)}
    assert commented(settings_of(TrainRunSettings).values(), "x").startswith("# Settings of")
