"""Adapters of the engines measured: one class each, libraries imported when prepared.

An adapter gets token ids and gives logits. `Peer` cuts and pads batches; engines that do this
themselves (polyrank, sentence-transformers) override `run`.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from engines.batching import DEFAULT, Batching, Tokens, candidates, pad, plan

Logits = NDArray[np.float32]
Pair = tuple[str, str]

THREADS = 2


class UnavailableError(Exception):
    """An engine cannot run here; the message says why."""


class Peer:
    """An engine that takes padded batches.

    Attributes:
        name: What it is called in tables.
        precision: Of its matrix products.
        needs: Name of the converted model it reads (see `convert.py`), or "" for the checkpoint.
        takes_texts: Whether it tokenises by itself; then `run_texts` stands for `run`.
        lane_choices: How many batches side by side are tried.
        usual: Batching that full runs found best, for the quick mode.
    """

    name: ClassVar[str]
    precision: ClassVar[str]
    needs: ClassVar[str] = ""
    takes_texts: ClassVar[bool] = False
    lane_choices: ClassVar[tuple[int, ...]] = (1, THREADS)
    usual: ClassVar[Batching] = Batching(1024)

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.threads = THREADS // lanes
        self.pad_id = 0
        self._pool = ThreadPoolExecutor(lanes)

    @classmethod
    def batchings(cls) -> list[Batching]:
        """Return the ways of calling it that are tried."""
        return [DEFAULT, *candidates(cls.lane_choices)]

    def prepare(self, folder: Path, converted: Path) -> None:
        """Load the checkpoint, or what was converted from it."""
        self.pad_id = json.loads((folder / "config.json").read_text("utf8"))["pad_token_id"]
        self.load(folder, converted / self.needs if self.needs else folder)

    def load(self, folder: Path, source: Path) -> None:
        """Load `source`; `folder` is the checkpoint it came from."""
        raise NotImplementedError

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Return the logits of one padded batch, shape (batch,)."""
        raise NotImplementedError

    def run(self, sequences: Sequence[Tokens], batching: Batching) -> Logits:
        """Return logits in input order, shape (num_sequences,)."""
        logits = np.empty(len(sequences), np.float32)

        def one(indices: NDArray[np.intp]) -> None:
            ids, mask = pad([sequences[i] for i in indices], self.pad_id)
            logits[indices] = self.forward(ids, mask)

        batches = plan([len(tokens) for tokens in sequences], batching)
        if self.lanes == 1 or len(batches) == 1:
            for indices in batches:
                one(indices)
        else:
            list(self._pool.map(one, batches))
        return logits

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load everything, tokenizer included, and return the logit of one pair."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prepare(folder, converted)
        return float(self.run([np.array(tokenizer.encode(*pair).ids)], Batching(1))[0])


class Torch(Peer):
    """transformers on PyTorch, scaled-dot-product attention."""

    name = "transformers (PyTorch)"
    precision = "float32"
    lane_choices = (1,)  # eager Python holds the interpreter lock: lanes only wait for each other

    def load(self, folder: Path, source: Path) -> None:
        """Load by transformers."""
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(self.threads)
        self._torch = torch
        self._model = AutoModelForSequenceClassification.from_pretrained(
            source, attn_implementation="sdpa", dtype=torch.float32
        ).eval()

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Run the model."""
        torch = self._torch
        with torch.inference_mode():
            found = self._model(
                input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
            )
            return found.logits[:, 0].float().numpy()

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load as its users do, tokenizer by transformers."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.prepare(folder, converted)
        inputs = tokenizer(*pair, return_tensors="np", return_token_type_ids=False)
        return float(self.forward(inputs["input_ids"], inputs["attention_mask"])[0])


class TorchBf16(Torch):
    """The same with weights and products in bfloat16."""

    precision = "bfloat16"

    def load(self, folder: Path, source: Path) -> None:
        """Load and cast."""
        super().load(folder, source)
        self._model.to(self._torch.bfloat16)


class SentenceTransformers(Peer):
    """CrossEncoder.predict with its defaults, from texts."""

    name = "sentence-transformers"
    precision = "float32"
    takes_texts = True
    lane_choices = (1,)
    usual = DEFAULT

    @classmethod
    def batchings(cls) -> list[Batching]:
        """Return its defaults alone."""
        return [DEFAULT]

    def load(self, folder: Path, source: Path) -> None:
        """Load by CrossEncoder."""
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(self.threads)
        self._identity = torch.nn.Identity()
        self._model = CrossEncoder(str(source), device="cpu")

    def run_texts(self, pairs: Sequence[Pair]) -> Logits:
        """Return logits of pairs, as predict gives them."""
        found = self._model.predict(
            list(pairs), activation_fn=self._identity, show_progress_bar=False
        )
        return np.asarray(found, np.float32)

    def tokenize(self, pairs: Sequence[Pair]) -> None:
        """Tokenise pairs in predict's batches, to time it apart."""
        for at in range(0, len(pairs), 32):
            part = pairs[at : at + 32]
            self._model.tokenizer(
                [query for query, _ in part], [text for _, text in part],
                padding=True, truncation=True, return_tensors="pt",
            )  # fmt: skip

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load and predict one pair."""
        self.prepare(folder, converted)
        return float(self.run_texts([pair])[0])


class OnnxRuntime(Peer):
    """ONNX Runtime on a graph fused by onnxruntime.transformers."""

    name = "ONNX Runtime"
    precision = "float32"
    needs = "ort-float32.onnx"

    def load(self, folder: Path, source: Path) -> None:
        """Open a session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"]
        )
        types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
        self._types = [(entry.name, types[entry.type]) for entry in self._session.get_inputs()]

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Run the session."""
        values = {"input_ids": ids, "attention_mask": mask}
        feed = {name: values[name].astype(dtype) for name, dtype in self._types}
        return self._session.run(None, feed)[0][:, 0]


class OnnxRuntimeInt8(OnnxRuntime):
    """The fused graph, dynamically quantised, weights per channel."""

    precision = "int8"
    needs = "ort-int8.onnx"
    usual = Batching(1, lanes=2)


class OpenVino(Peer):
    """OpenVINO, float32 kept: by default it would use bfloat16 where the processor has AMX."""

    name = "OpenVINO"
    precision = "float32"
    needs = "openvino-float32.xml"
    hint: ClassVar[str] = "f32"

    def load(self, folder: Path, source: Path) -> None:
        """Compile for the CPU."""
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": self.lanes,
            "INFERENCE_PRECISION_HINT": self.hint,
            "ENABLE_CPU_PINNING": False,
        }
        self._model = openvino.Core().compile_model(source, "CPU", settings)
        self._requests = [self._model.create_infer_request() for _ in range(self.lanes)]

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Run on a free request."""
        request = self._requests.pop()  # list operations are atomic, lanes never exceed requests
        try:
            found = request.infer([ids, mask], share_inputs=True)
            return np.array(found[0][:, 0], np.float32)
        finally:
            self._requests.append(request)


class OpenVinoBf16(OpenVino):
    """The same with bfloat16 products, OpenVINO's default where there is AMX."""

    precision = "bfloat16"
    hint = "bf16"


class OpenVinoInt8(OpenVino):
    """Static int8 by NNCF, transformer preset; the rest in float32."""

    precision = "int8"
    needs = "openvino-int8.xml"
    usual = Batching(1024, lanes=2)


class OpenVinoInt8Bf16(OpenVinoInt8):
    """The same with the rest in bfloat16, OpenVINO's default where there is AMX."""

    precision = "int8+bfloat16"
    hint = "bf16"


class CTranslate2(Peer):
    """CTranslate2's encoder, int8; the classifier is applied in NumPy."""

    name = "CTranslate2"
    precision = "int8"
    needs = "ctranslate2"

    def load(self, folder: Path, source: Path) -> None:
        """Load the converted encoder and the head."""
        import ctranslate2
        from safetensors import safe_open

        self._encoder = ctranslate2.Encoder(
            str(source), device="cpu", compute_type="int8",
            inter_threads=self.lanes, intra_threads=self.threads,
        )  # fmt: skip
        with safe_open(folder / "model.safetensors", "np") as file:
            names = [name for name in file.keys() if "classifier" in name]  # noqa: SIM118
            self._head = {name: file.get_tensor(name) for name in names}

    def forward(self, ids: Tokens, mask: Tokens) -> Logits:
        """Run without the padding that it adds itself."""
        rows = [row[:count].tolist() for row, count in zip(ids, mask.sum(1), strict=True)]
        found = self._encoder.forward_batch(rows)
        head = self._head
        if "classifier.weight" in head:  # BERT: pooled inside
            pooled = np.array(found.pooler_output)
            return (pooled @ head["classifier.weight"].T + head["classifier.bias"])[:, 0]
        first = np.array(found.last_hidden_state)[:, 0]
        pooled = np.tanh(first @ head["classifier.dense.weight"].T + head["classifier.dense.bias"])
        out = pooled @ head["classifier.out_proj.weight"].T + head["classifier.out_proj.bias"]
        return out[:, 0]


class Polyrank(Peer):
    """polyrank's own encoders, its engine planning the batches."""

    name = "polyrank"
    precision = "float32"
    lane_choices = (1,)
    encoder: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def batchings(cls) -> list[Batching]:
        """Return token budgets alone: polyrank sorts by itself."""
        return [Batching(budget) for budget in (512, 1024, 2048, 4096, 16384)]

    def load(self, folder: Path, source: Path) -> None:
        """Load a reranker."""
        from polyrank import Reranker
        from polyrank.errors import ConfigError, MissingExtraError

        try:
            self._reranker = Reranker(
                source, encoder=self.encoder, num_threads=THREADS, **self.settings
            )
        except (ConfigError, MissingExtraError, TypeError) as exc:
            raise UnavailableError(str(exc)) from exc

    def run(self, sequences: Sequence[Tokens], batching: Batching) -> Logits:
        """Run packed sequences by the engine behind the reranker, then its head."""
        from polyrank.types import PackedBatch

        reranker: Any = self._reranker  # below the public face, which takes texts
        reranker._engine.max_batch_tokens = max(batching.budget, 1)
        ends = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
        rows = reranker._rows(PackedBatch(np.concatenate(sequences).astype(np.int32), ends), None)
        return reranker._head(rows)[:, 0]

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load and score one pair."""
        self.load(folder, folder)
        return float(self._reranker.score([pair], logits=True)[0])


class PolyrankOnnx(Polyrank):
    """ONNX Runtime on polyrank's own graph."""

    name = "polyrank onnx"
    encoder = "onnx"


class PolyrankPytorch(Polyrank):
    """polyrank's PyTorch encoder."""

    name = "polyrank pytorch"
    encoder = "pytorch"


class PolyrankNative(Polyrank):
    """The native encoder."""

    name = "polyrank native"
    encoder = "native"
    usual = Batching(16384)
    settings: ClassVar[dict[str, Any]] = {"precision": "float32"}


class PolyrankNativeInt8(PolyrankNative):
    """The native encoder in int8."""

    precision = "int8"
    settings: ClassVar[dict[str, Any]] = {"precision": "int8"}


PEERS: dict[str, type[Peer]] = {
    "torch-float32": Torch,
    "torch-bfloat16": TorchBf16,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime-float32": OnnxRuntime,
    "onnxruntime-int8": OnnxRuntimeInt8,
    "openvino-float32": OpenVino,
    "openvino-bfloat16": OpenVinoBf16,
    "openvino-int8": OpenVinoInt8,
    "openvino-int8-bfloat16": OpenVinoInt8Bf16,
    "ctranslate2-int8": CTranslate2,
    "polyrank-onnx": PolyrankOnnx,
    "polyrank-pytorch": PolyrankPytorch,
    "polyrank-native-float32": PolyrankNative,
    "polyrank-native-int8": PolyrankNativeInt8,
}
