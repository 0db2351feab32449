"""What polyrank.compat cannot honour is refused by name; what asks for nothing is not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank import compat
from polyrank.errors import CapabilityError, ConfigError

PAIR = ("query", "text")


def test_classes_are_loaded_on_first_use() -> None:
    code = (
        "import sys, polyrank.compat as c; heavy = ('numpy', 'tokenizers', 'torch')\n"
        "print([m for m in heavy if m in sys.modules], all(getattr(c, n) for n in c.__all__))\n"
        "print([m for m in ('torch', 'sentence_transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[] True", "[]"]
    with pytest.raises(AttributeError, match="no attribute 'LayerWiseFlagLLMReranker'"):
        compat.LayerWiseFlagLLMReranker  # noqa: B018


@pytest.mark.parametrize(
    "name", ["CrossEncoder", "MultiVectorEncoder", "SentenceTransformer", "Reranker"]
)
@pytest.mark.parametrize(
    "arguments", [{"trust_remote_code": True}, {"token": "hf_x"}, {"model_kwargs": {"dtype": "x"}}]
)
def test_loading(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{name} .* cannot honour {next(iter(arguments))}="):
        getattr(compat, name)(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CrossEncoder", {"backend": "openvino"}),
        ("CrossEncoder", {"activation_fn": "torch.nn.ReLU"}),
        ("SentenceTransformer", {"backend": "openvino"}),
        ("FlagReranker", {"query_instruction_for_rerank": "A: "}),
        ("FlagReranker", {"devices": ["cuda:0"], "use_fp16": True}),
        ("Reranker", {"model_type": "rankgpt"}),
    ],
)
def test_own_arguments(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot honour"):
        getattr(compat, name)(**arguments)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("CrossEncoder", lambda model, **given: model.predict([PAIR], **given)),
        ("CrossEncoder", lambda model, **given: model.rank("a", ["b"], **given)),
        ("SentenceTransformer", lambda model, **given: model.encode(["a"], **given)),
        ("SentenceTransformer", lambda model, **given: model.encode_query(["a"], **given)),
        ("FlagReranker", lambda model, **given: model.compute_score([PAIR], **given)),
    ],
)
def test_calls(name: str, call: Callable[..., object]) -> None:
    model = getattr(compat, name)()
    call(model, batch_size=4, pool=None, chunk_size=None)
    for arguments in ({"pool": {"input": 1}}, {"device": ["cpu", "cpu"]}, {"typo": 1}):
        with pytest.raises(ConfigError, match=f"cannot honour {next(iter(arguments))}="):
            call(model, **arguments)


def test_similarity_that_is_not_known() -> None:
    model = compat.SentenceTransformer(similarity_fn_name="hamming")
    with pytest.raises(ConfigError, match=r"must be one of cosine.*'hamming'"):
        model.similarity(model.encode("a"), model.encode("b"))


def test_labels_that_the_checkpoint_lacks(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("three-way-classifier")
    with pytest.raises(ConfigError, match="3 labels, not 1"):
        compat.CrossEncoder(folder, num_labels=1)
    with pytest.raises(ConfigError, match="one label"):
        compat.CrossEncoder(folder).rank("a", ["b"])
    with pytest.raises(CapabilityError, match="cannot rerank"):
        compat.FlagReranker(folder)
