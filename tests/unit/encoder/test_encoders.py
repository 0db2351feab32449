"""Both encoders against transformers on the same token ids, and their errors."""

import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime.capi.onnxruntime_pybind11_state as ort_errors
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from polyrank import _extras
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder import choose, onnx, pytorch
from polyrank.encoder.onnx import OnnxEncoder, length_groups
from polyrank.encoder.pytorch import PytorchEncoder
from polyrank.errors import ConfigError, CorruptWeightsError, EncoderError, MissingExtraError
from polyrank.types import PackedBatch

EXACT = 1e-5
"""Token rows (values up to about 4) of tiny models: float32 sums in another order."""

LONG = 1e-4
"""The same over sequences of hundreds of tokens."""

SIZES = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "initializer_range": 0.15,
}
XLMR = {"pad_token_id": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 600}
PAD = 1  # XLM-R's padding id, which gets no position of its own


def bert(**changes):
    return BertModel(BertConfig(**{**SIZES, **changes}), add_pooling_layer=False)


def xlmr(**changes):
    return XLMRobertaModel(XLMRobertaConfig(**{**SIZES, **XLMR, **changes}))


MAKERS = {
    "bert": bert,
    "bert without segments": lambda: bert(type_vocab_size=1),
    "bert with tanh gelu": lambda: bert(hidden_act="gelu_new"),
    "bert with relu": lambda: bert(hidden_act="relu"),
    "bert with silu": lambda: bert(hidden_act="silu"),
    "bert classifier": lambda: BertForSequenceClassification(BertConfig(**SIZES, num_labels=1)),
    "xlmr": lambda: xlmr(type_vocab_size=1),
    "xlmr with segments": lambda: xlmr(type_vocab_size=2),
    "half": lambda: bert().half(),
    "bfloat16": lambda: bert().bfloat16(),
    "double": lambda: bert().double(),
    "sharded": bert,
    "long": lambda: bert(num_attention_heads=16, num_hidden_layers=1, max_position_embeddings=8192),
}


class Models:
    """Tiny models by name, saved once, with what transformers makes of them."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.models: dict[str, torch.nn.Module] = {}

    def folder(self, name: str) -> Path:
        folder = self.parent / name.replace(" ", "-")
        if name not in self.models:
            torch.manual_seed(7)
            model = MAKERS[name]().eval()
            for parameter in model.parameters():  # biases and norms of 0 and 1 would hide errors
                if parameter.ndim == 1:
                    parameter.data += 0.1 * torch.randn_like(parameter)
            size = "20KB" if name == "sharded" else "1GB"
            model.save_pretrained(folder, max_shard_size=size)
            write_tokenizer(folder)
            self.models[name] = model.float()
        return folder

    def checkpoint(self, name: str) -> Checkpoint:
        return read_checkpoint(self.folder(name))

    def expected(self, name: str, batch: PackedBatch) -> np.ndarray:
        """Token rows of transformers' own model, each sequence run alone, without padding."""
        self.folder(name)
        model = getattr(self.models[name], "base_model", self.models[name])
        types = np.zeros_like(batch.input_ids)
        types = types if batch.token_type_ids is None else batch.token_type_ids
        rows = []
        with torch.inference_mode():
            for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
                ids = torch.from_numpy(batch.input_ids[None, start:end]).long()
                segments = torch.from_numpy(types[None, start:end]).long()
                out = model(ids, attention_mask=torch.ones_like(ids), token_type_ids=segments)
                rows.append(out.last_hidden_state[0].numpy())
        return np.concatenate(rows)


def write_tokenizer(folder: Path) -> None:
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(
        str(folder / "tokenizer.json")
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=[OnnxEncoder, PytorchEncoder], ids=["onnx", "pytorch"])
def make(request):
    return request.param


def pack(lengths, *, seed=0, lowest=2, segments=1):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    types = rng.integers(0, segments, total, np.int32) if segments > 1 else None
    return PackedBatch(rng.integers(lowest, 120, total, np.int32), cu_seqlens, types)


MIXED = (7, 1, 12, 3, 7, 30, 1, 12)


def worst(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    return np.abs(actual - expected).max()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "long"])
def test_token_rows_are_those_of_transformers(tiny, make, name):
    encoder = make(tiny.checkpoint(name), EngineConfig(num_threads=2))
    batch = pack(MIXED)
    assert worst(encoder.run(batch, ()), tiny.expected(name, batch)) < EXACT


@pytest.mark.parametrize("name", ["bert", "xlmr with segments"])
def test_segments(tiny, make, name):
    batch = pack(MIXED, segments=2)
    rows = make(tiny.checkpoint(name), EngineConfig()).run(batch, ())
    assert worst(rows, tiny.expected(name, batch)) < EXACT
    without = PackedBatch(batch.input_ids, batch.cu_seqlens)
    assert worst(rows, tiny.expected(name, without)) > 0.01


def test_a_text_that_spells_the_padding_token(tiny, make):
    batch = pack((6, 9, 1))
    batch.input_ids[[2, 8, 9, 15]] = PAD
    rows = make(tiny.checkpoint("xlmr"), EngineConfig()).run(batch, ())
    assert worst(rows, tiny.expected("xlmr", batch)) < EXACT


def test_every_length_up_to_the_longest(tiny, make):
    batch = pack(range(1, 41))
    rows = make(tiny.checkpoint("bert"), EngineConfig()).run(batch, ())
    assert worst(rows, tiny.expected("bert", batch)) < EXACT


def test_long_sequences(tiny, make):
    checkpoint = tiny.checkpoint("xlmr")
    batch = pack((checkpoint.spec.body.max_seqlen, 300, 2))
    assert checkpoint.spec.body.max_seqlen == 598
    rows = make(checkpoint, EngineConfig(max_batch_tokens=64)).run(batch, ())
    assert worst(rows, tiny.expected("xlmr", batch)) < LONG


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_attention_scores_are_never_held_in_full(tiny, make):
    resource = pytest.importorskip("resource")
    encoder = make(tiny.checkpoint("long"), EngineConfig())
    batch = pack((8192,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder.run(batch, ("cls",))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 300 * 1024  # scores of 16 heads take 4 GiB


def test_pooled_rows_come_in_input_order(tiny, make):
    batch = pack(MIXED)
    pooled = make(tiny.checkpoint("bert"), EngineConfig()).run(batch, ("cls", "mean"))
    rows = np.split(tiny.expected("bert", batch), batch.cu_seqlens[1:-1])
    expected = np.stack([np.concatenate((row[0], row.mean(axis=0))) for row in rows])
    assert worst(pooled, expected) < EXACT


def test_rows_do_not_depend_on_batch_mates(tiny, make):
    encoder = make(tiny.checkpoint("xlmr"), EngineConfig())
    batch = pack(MIXED)
    together = encoder.run(batch, ())
    alone = [encoder.run(batch.select(np.array([i])), ()) for i in range(len(batch))]
    # values up to about 4, twice the tolerance declared for a scale of 1
    assert worst(together, np.concatenate(alone)) <= 2 * encoder.capabilities.tolerance


def test_thread_counts_agree(tiny, make):
    before = torch.get_num_threads()
    try:
        batch = pack(MIXED)
        one, two = (
            make(tiny.checkpoint("bert"), EngineConfig(num_threads=n)).run(batch, ())
            for n in (1, 2)
        )
    finally:
        torch.set_num_threads(before)
    assert worst(one, two) < EXACT


def test_four_threads_at_once(tiny, make):
    encoder = make(tiny.checkpoint("bert"), EngineConfig())
    batches = [pack(MIXED, seed=seed) for seed in range(12)]
    expected = [encoder.run(batch, ("mean",)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: encoder.run(batch, ("mean",)), batches))
    for rows, alone in zip(found, expected, strict=True):
        assert worst(rows, alone) < EXACT


def test_weights_behind_links_as_in_the_hub_cache(tiny, make, tmp_path):
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for at, file in enumerate(sorted(tiny.folder("sharded").iterdir())):
        blob = tmp_path / "blobs" / str(at % 2) / f"{at:064x}"  # shards in two folders
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    batch = pack(MIXED)
    rows = make(read_checkpoint(snapshot), EngineConfig()).run(batch, ())
    assert worst(rows, tiny.expected("sharded", batch)) < EXACT


@pytest.mark.parametrize("odd_bytes", [1, 2])
def test_tensors_at_odd_offsets(tiny, make, tmp_path, odd_bytes):
    folder = tmp_path / "odd"
    shutil.copytree(tiny.folder("bert"), folder)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + size].rstrip()
    header += b" " * (-(len(header)) % 4 + odd_bytes)  # data starts 1 or 2 beyond a multiple of 4
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
    checkpoint = read_checkpoint(folder)
    assert {info.offset_bytes % 4 for info in checkpoint.body_tensors.values()} == {odd_bytes}
    batch = pack(MIXED)
    assert (
        worst(make(checkpoint, EngineConfig()).run(batch, ()), tiny.expected("bert", batch)) < EXACT
    )


def test_ids_and_lengths_that_the_tables_do_not_hold(tiny, make):
    encoder = make(tiny.checkpoint("xlmr"), EngineConfig())
    wrong_id, negative, segment = pack((3, 4)), pack((3, 4)), pack((3, 4), segments=3)
    wrong_id.input_ids[5] = 120
    negative.input_ids[5] = -1
    for batch, message in (
        (wrong_id, "token id 120 is outside the vocabulary of 120"),
        (negative, "token id -1 "),
        (segment, "beyond the 1 that the checkpoint"),
        (pack((599,)), "599 tokens; the checkpoint has positions for 598"),
        (pack((3, 0)), "one token or more"),
    ):
        with pytest.raises(EncoderError, match=message):
            encoder.run(batch, ("cls",))


def change_tensor(source: Path, folder: Path, name: str, change) -> Checkpoint:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors")
    return read_checkpoint(folder)


def test_weights_that_are_not_numbers_are_named(tiny, make, tmp_path):
    name = "encoder.layer.1.output.dense.bias"
    checkpoint = change_tensor(
        tiny.folder("bert"), tmp_path / "nan", name, lambda values: values.put(3, np.nan)
    )
    with pytest.raises(CorruptWeightsError, match=rf"{name}.*model\.safetensors"):
        make(checkpoint, EngineConfig()).run(pack(MIXED), ("cls",))


def test_results_beyond_float32(tiny, make, tmp_path):
    checkpoint = change_tensor(
        tiny.folder("bert"),
        tmp_path / "huge",
        "encoder.layer.1.output.LayerNorm.weight",
        lambda values: values.fill(3e38),
    )
    with pytest.raises(EncoderError, match="beyond float32"):
        make(checkpoint, EngineConfig()).run(pack(MIXED), ("cls",))


def test_a_closed_encoder(tiny, make):
    encoder = make(tiny.checkpoint("bert"), EngineConfig())
    encoder.close()
    with pytest.raises(EncoderError, match="closed"):
        encoder.run(pack((3,)), ("cls",))


def test_capabilities(tiny):
    config = EngineConfig()
    assert not OnnxEncoder(tiny.checkpoint("bert"), config).capabilities.is_padding
    assert PytorchEncoder(tiny.checkpoint("bert"), config).capabilities.is_padding


def test_float32_parameters_stay_in_the_mapped_file(tiny):
    checkpoint = tiny.checkpoint("bert")
    encoder = PytorchEncoder(checkpoint, EngineConfig())
    for name, info in checkpoint.body_tensors.items():
        view = checkpoint.weights.get(info.name)
        assert encoder._parameters[name].data_ptr() == view.__array_interface__["data"][0]


def test_threads_of_torch_are_left_alone_unless_asked(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    PytorchEncoder(tiny.checkpoint("bert"), EngineConfig())
    assert asked == []
    PytorchEncoder(tiny.checkpoint("bert"), EngineConfig(num_threads=3))
    assert asked == [3]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_devices_that_are_not_there(tiny, device):
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        PytorchEncoder(tiny.checkpoint("bert"), EngineConfig(device=device))


def test_every_error_of_onnx_runtime_is_translated():
    known = {
        value
        for value in vars(ort_errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert known <= set(onnx.ORT_ERRORS)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (MemoryError("std::bad_alloc"), "lower max_batch_tokens"),
        (ort_errors.RuntimeException("Failed to allocate memory for 9 bytes"), "lower max_batch"),
        (ort_errors.InvalidArgument("rank"), 'encoder="pytorch"'),
    ],
)
def test_errors_of_onnx_runtime(raised, message):
    with pytest.raises(EncoderError, match=message), onnx._translated("could not run"):
        raise raised


@pytest.mark.parametrize("raised", [torch.OutOfMemoryError("9 GiB"), RuntimeError("alloc")])
def test_errors_of_torch(raised):
    with pytest.raises(EncoderError, match="ower max_batch_tokens"), pytorch._translated("failed"):
        raise raised


def test_weights_that_vanish_before_loading(tiny, tmp_path):
    folder = tmp_path / "gone"
    shutil.copytree(tiny.folder("bert"), folder)
    checkpoint = read_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="could not load gone"):
        OnnxEncoder(checkpoint, EngineConfig())


def test_length_groups():
    groups = length_groups(np.array([9, 9, 4, 2, 2, 2], np.int32), 48)
    assert groups["group_starts"].tolist() == [[0], [18], [22]]
    assert groups["group_ends"].tolist() == [[18], [22], [28]]
    assert groups["group_shapes"].tolist() == [[2, 9, 48], [1, 4, 48], [3, 2, 48]]


def test_auto_prefers_onnx_on_the_cpu(tiny):
    encoder = choose.choose_encoder(tiny.checkpoint("bert"), EngineConfig())
    assert encoder.capabilities.name == "onnx"


def test_auto_takes_what_is_installed(tiny, monkeypatch):
    monkeypatch.setattr(choose, "is_installed", lambda *modules: "torch" in modules)
    encoder = choose.choose_encoder(tiny.checkpoint("bert"), EngineConfig())
    assert encoder.capabilities.name == "pytorch"


def test_nothing_installed_names_the_extra(tiny, monkeypatch):
    for module in (choose, _extras):
        monkeypatch.setattr(module, "is_installed", lambda *modules: False)
    with pytest.raises(MissingExtraError, match=re.escape(_extras.install_command("onnx"))):
        choose.choose_encoder(tiny.checkpoint("bert"), EngineConfig())
    assert [status.is_available for status in choose.available_encoders()] == [False, False, False]


def test_unknown_encoders_are_refused(tiny):
    with pytest.raises(ConfigError, match="auto, native, onnx, pytorch, not 'onix'"):
        choose.choose_encoder(tiny.checkpoint("bert"), EngineConfig(encoder="onix"))


def test_available_encoders():
    statuses = choose.available_encoders()
    assert [status.name for status in statuses] == ["native", "onnx", "pytorch"]
    native, onnx, pytorch = statuses
    assert native.is_available == (find_spec("polyrank._native") is not None)
    assert (onnx.is_available, onnx.extra) == (True, "onnx")
    assert (pytorch.is_available, pytorch.extra) == (True, "torch")


def test_a_device_other_than_the_cpu_leaves_native_and_onnx_out(tiny):
    body = tiny.checkpoint("bert").spec.body
    assert choose._pick(EngineConfig(device="cuda"), body).name == "pytorch"
    for name in ("native", "onnx"):
        with pytest.raises(ConfigError, match=f"{name} encoder runs on the CPU only"):
            choose._pick(EngineConfig(encoder=name, device="cuda"), body)


def test_int8_is_for_native(tiny):
    body = tiny.checkpoint("bert").spec.body
    with pytest.raises(ConfigError, match="onnx encoder has no int8"):
        choose._pick(EngineConfig(encoder="onnx", compute_dtype="int8"), body)
