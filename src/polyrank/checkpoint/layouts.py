"""Known folder shapes, as data: where each ecosystem keeps what, and under which names.

Adding a published layout means adding a row here, not a branch elsewhere.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from polyrank.checkpoint.spec import Nonlinearity
from polyrank.types import Activation, PoolingMode

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
COMPRESSED_TOKENIZER_FILE = "tokenizer.json.gz"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.bin")
MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
GATE_FILE = "polyrank_gate.json"
CALIBRATION_FILE = "polyrank_calibration.json"
TABLE_FILE = "polyrank_table.safetensors"
QUANTIZATION_KEY = "polyrank_quantization"
EXTRA_HEADS_KEY = "polyrank_heads"
TRANSFORMER_CONFIG_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)

HUB_PATTERNS = (
    CONFIG_FILE,
    TOKENIZER_FILE,
    COMPRESSED_TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    "model-*-of-*.safetensors",
    MODULES_FILE,
    PROMPTS_FILE,
    GATE_FILE,
    CALIBRATION_FILE,
    "artifact.metadata",
    *TRANSFORMER_CONFIG_FILES,
    "[0-9]*_*/config.json",
    "[0-9]*_*/*_config.json",
    "[0-9]*_*/tokenizer*.json",
    "[0-9]*_*/tokenizer.json.gz",
    "[0-9]*_*/model*.safetensors*",
)
"""Files fetched from the Hub: no pickles, no ONNX exports, no other framework's weights."""


@dataclass(frozen=True, slots=True)
class BodyLayout:
    """How one family of bodies names and counts things.

    Attributes:
        counts_from_padding: Positions start at padding index + 1 and skip padding ids (RoBERTa).
        prefixes: What may stand before ``embeddings.`` in tensor names, likeliest first.
        has_pooler_head: Whether sequence classification goes through ``pooler.dense`` (BERT)
            rather than ``classifier.dense`` (RoBERTa).
    """

    counts_from_padding: bool
    prefixes: tuple[str, ...]
    has_pooler_head: bool


_ROBERTA = BodyLayout(True, ("roberta.", ""), has_pooler_head=False)

BODIES: Mapping[str, BodyLayout] = {
    "bert": BodyLayout(False, ("bert.", ""), has_pooler_head=True),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
}
"""Bodies that polyrank runs, by ``model_type`` of config.json."""

CLASSIFIER_SUFFIX = "ForSequenceClassification"

OTHER_HEADS = (
    "ForMaskedLM",
    "ForCausalLM",
    "ForPreTraining",
    "ForNextSentencePrediction",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "LMHeadModel",
    "ColBERT",
)
"""How architectures end whose heads polyrank does not run."""

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Tensors that are found in published files although the model at hand does not read them.

    Attributes:
        pattern: What their whole names match, with or without the prefix of the body.
        what: What they are, for people.
        harmless: "always"; "declared": where the folder itself says what it is for, and then a
            remark tells that they are left out (a body that was trained with such a head embeds
            only if somebody made it so); "own heads": where config.json has polyrank's heads; or
            "never", so that the entry only gives them a name.
    """

    pattern: re.Pattern[str]
    what: str
    harmless: Literal["always", "declared", "own heads", "never"]


LEFTOVERS = (
    # buffers that older transformers saved: 0, 1, 2, … and zeros
    Leftover(re.compile(r"embeddings\.(position_ids|token_type_ids)"), "counts", "always"),
    # in every BertModel and XLMRobertaModel; embedders pool token rows instead
    Leftover(re.compile(r"pooler\.dense\.(weight|bias)"), "the pooler", "always"),
    Leftover(
        re.compile(r"(cls\.(predictions|seq_relationship)|lm_head)\..+"),
        "the masked-language-model head of pre-training (cls.predictions, lm_head)",
        "declared",
    ),
    # what one of several heads on a body has, and another that took its place has not
    Leftover(re.compile(r"heads\..+"), "tensors of polyrank's own heads", "own heads"),
    Leftover(
        re.compile(r"linear\.(weight|bias)"),
        "the projection of a ColBERT model, which compares token by token",
        "never",
    ),
    Leftover(
        re.compile(r"qa_outputs\.(weight|bias)"),
        "the head of a model that answers questions",
        "never",
    ),
    Leftover(
        re.compile(r"classifier\.(.+\.)?(weight|bias)"),
        "the classifier of another architecture (one that labels tokens, or choices)",
        "never",
    ),
)
"""By the first pattern that matches; what matches none is refused.

Seen in: bge-reranker-base and ms-marco-MiniLM (position_ids), multilingual-e5, UAE-Large-V1 and
paraphrase-multilingual-mpnet-base-v2 (position_ids, pooler), bodies trained on by
sentence-transformers from a ForMaskedLM or ForPreTraining model (cls.predictions, lm_head)."""

NONLINEARITIES: Mapping[str, Nonlinearity] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}

ACTIVATIONS: Mapping[str, Activation] = {
    "Sigmoid": "sigmoid",
    "Identity": "identity",
    "Softmax": "softmax",
}
"""Score activations by the last part of the class path that a checkpoint names."""

MODULES: Mapping[str, str] = {
    "Transformer": "transformer",
    "Pooling": "pooling",
    "Dense": "dense",
    "Normalize": "normalize",
    "Dropout": "dropout",
    "MultiVectorMask": "multi_vector_mask",
}
"""Sentence-transformers modules by the last part of their class path."""

POOLING_MODES: Mapping[str, PoolingMode] = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}

LEGACY_POOLING_FLAGS: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}

_E5_PROMPTS = {"query": "query: ", "document": "passage: "}
_UAE_QUERY = "Represent this sentence for searching relevant passages: "

DOCUMENTED_PROMPTS: Mapping[str, Mapping[str, str]] = {
    "intfloat/multilingual-e5-small": _E5_PROMPTS,
    "intfloat/multilingual-e5-base": _E5_PROMPTS,
    "intfloat/multilingual-e5-large": _E5_PROMPTS,
    "WhereIsAI/UAE-Large-V1": {"query": _UAE_QUERY, "document": ""},
}
"""Prompts that a model card asks for and the published folder does not hold, by exact Hub id."""

_DOCUMENT_PROMPTS = ("document", "passage", "corpus", "search_document")
INPUT_TYPE_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query"),
    "document": _DOCUMENT_PROMPTS,
    "passage": _DOCUMENT_PROMPTS,  # the same by another name, which E5's users know
}
"""Prompt names that serve an input type; the first one with a text wins."""
