"""Adapters of the engines to compare with, each set up as its own documentation advises."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from engines.adapter import THREADS, Logits, Pair, Peer
from engines.batching import DEFAULT, Batching, Tokens


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
    def budgets(cls) -> tuple[int, ...]:
        """Return its defaults alone."""
        return (DEFAULT.budget,)

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
    needs = "ort-float32/model.onnx"

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
    needs = "ort-int8/model.onnx"
    usual = Batching(1, lanes=2)


class OpenVino(Peer):
    """OpenVINO, float32 kept: by default it would use bfloat16 where the processor has AMX."""

    name = "OpenVINO"
    precision = "float32"
    needs = "openvino-float32/model.xml"
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
    needs = "openvino-int8/model.xml"
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
