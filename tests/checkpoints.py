"""Tiny seeded checkpoints, written by transformers and sentence-transformers themselves.

Each is laid out as the published one of the same name: same classes, same conventions (positions,
segments, poolers, labels, length limits), fewer and smaller layers.
"""

import json
import string
from collections import Counter
from collections.abc import Callable
from math import log
from pathlib import Path
from unicodedata import normalize

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from tests.texts import ALL, SENTENCES

# A larger spread than the usual 0.02 makes attention far from uniform and logits far from 0.
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "initializer_range": 0.15,
}


def frequent_pieces(words: list[str], size: int) -> dict[str, int]:
    """Every character of some words and their most useful substrings, with counts.

    Counted here rather than trained: the trainers of the tokenizers library give another
    vocabulary at every run, and "seeded" checkpoints would differ from run to run.
    """
    counts = Counter(
        word[start:end]
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + 7, len(word)) + 1)
    )
    ranked = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))
    return {piece: counts[piece] for piece in ranked[:size]}


def xlm_roberta_tokenizer(model_max_length: int) -> XLMRobertaTokenizer:
    """A unigram vocabulary of the test sentences, in XLM-R's own class."""
    words = [f"▁{word}" for text in SENTENCES.values() for word in normalize("NFKC", text).split()]
    counts = frequent_pieces(words, 900)
    total = sum(counts.values())
    pieces = [(piece, log(count / total)) for piece, count in counts.items()]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = [*special, *pieces, ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, model_max_length=model_max_length)


def bert_tokenizer(model_max_length: int) -> BertTokenizer:
    """A WordPiece vocabulary of the test sentences, in BERT's own class."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in ALL if len(text) < 1000]
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(text)]
    pieces = frequent_pieces(words, 700)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = [*special, *pieces, *(f"##{piece}" for piece in pieces)]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=model_max_length)


def _xlm_roberta_config(vocab_size: int, **changes: object) -> XLMRobertaConfig:
    base = {
        **SIZES,
        "vocab_size": vocab_size,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    return XLMRobertaConfig(**{**base, **changes})


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, **kwargs: object
) -> Path:
    model.eval()
    model.save_pretrained(folder, **kwargs)
    tokenizer.save_pretrained(folder)
    return folder


def bge_reranker_v2_m3(folder: Path) -> Path:
    """XLM-R with 8,194 positions and one logit."""
    tokenizer = xlm_roberta_tokenizer(8192)
    config = _xlm_roberta_config(len(tokenizer), max_position_embeddings=8194, num_labels=1)
    return _save(XLMRobertaForSequenceClassification(config), tokenizer, folder)


def bge_reranker_base(folder: Path) -> Path:
    """XLM-R with 514 positions and one logit."""
    tokenizer = xlm_roberta_tokenizer(512)
    config = _xlm_roberta_config(len(tokenizer), num_labels=1)
    return _save(XLMRobertaForSequenceClassification(config), tokenizer, folder)


def bert_reranker(folder: Path) -> Path:
    """BERT with segments, a pooler and one logit."""
    tokenizer = bert_tokenizer(512)
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), num_labels=1)
    return _save(BertForSequenceClassification(config), tokenizer, folder)


def three_way_classifier(folder: Path) -> Path:
    """XLM-R with three named labels and softmax."""
    tokenizer = xlm_roberta_tokenizer(512)
    labels = ["irrelevant", "neutral", "relevant"]
    config = _xlm_roberta_config(
        len(tokenizer),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    return _save(XLMRobertaForSequenceClassification(config), tokenizer, folder)


def multi_label_classifier(folder: Path) -> Path:
    """BERT with five labels, each yes or no."""
    tokenizer = bert_tokenizer(512)
    config = BertConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        num_labels=5,
        problem_type="multi_label_classification",
    )
    return _save(BertForSequenceClassification(config), tokenizer, folder)


def _sentence_transformer(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pooling: str,
    *,
    is_normalized: bool,
    max_seq_length: int,
    dense: int | None = None,
    prompts: dict[str, str] | None = None,
) -> Path:
    body = _save(model, tokenizer, folder.parent / f"{folder.name}-body")
    modules = [
        Transformer(str(body), max_seq_length=max_seq_length),
        Pooling(SIZES["hidden_size"], pooling),
    ]
    if dense is not None:
        modules.append(Dense(SIZES["hidden_size"], dense))
    if is_normalized:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=prompts or {}, device="cpu").save_pretrained(
        str(folder)
    )
    # published folders of this age keep the length limit in this file
    settings = {"max_seq_length": max_seq_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


def multilingual_e5_small(folder: Path) -> Path:
    """A BERT body under XLM-R's tokenizer, mean pooling, unit length."""
    tokenizer = xlm_roberta_tokenizer(512)
    # the published table has 35 rows more than the tokenizer has pieces
    config = BertConfig(**SIZES, vocab_size=len(tokenizer) + 35)
    return _sentence_transformer(
        folder,
        BertModel(config),
        tokenizer,
        "mean",
        is_normalized=True,
        max_seq_length=512,
        prompts={"query": "query: ", "document": "passage: "},
    )


def multilingual_e5_large(folder: Path) -> Path:
    """An XLM-R body, mean pooling, unit length."""
    tokenizer = xlm_roberta_tokenizer(512)
    model = XLMRobertaModel(_xlm_roberta_config(len(tokenizer)))
    return _sentence_transformer(
        folder, model, tokenizer, "mean", is_normalized=True, max_seq_length=512
    )


def paraphrase_multilingual_mpnet(folder: Path) -> Path:
    """An XLM-R body, mean pooling, 128 tokens, length not normalised."""
    tokenizer = xlm_roberta_tokenizer(512)
    model = XLMRobertaModel(_xlm_roberta_config(len(tokenizer)))
    return _sentence_transformer(
        folder, model, tokenizer, "mean", is_normalized=False, max_seq_length=128
    )


def uae_large(folder: Path) -> Path:
    """A BERT body, CLS pooling."""
    tokenizer = bert_tokenizer(512)
    model = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer)))
    return _sentence_transformer(
        folder, model, tokenizer, "cls", is_normalized=False, max_seq_length=512
    )


def dense_embedder(folder: Path) -> Path:
    """A BERT body with a Dense module behind the pooling."""
    tokenizer = bert_tokenizer(512)
    model = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer)))
    return _sentence_transformer(
        folder, model, tokenizer, "mean", is_normalized=True, max_seq_length=64, dense=24
    )


LATE_FEATURES = (
    "sharp_match",
    "plain_match",
    "least_match",
    "reverse_match",
    "clean_cosine",
    "document_length",
)


def late_interaction(folder: Path, **changes: object) -> Path:
    """Give an embedder a reranker and a classifier of three labels that compare token rows.

    Args:
        folder: The embedder's; it is changed.
        **changes: Other values of the block "late_interaction" of both heads.
    """
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(6)
    named = changes.get("features")
    width = len(named) if isinstance(named, list) else len(LATE_FEATURES)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    save_file(
        load_file(path)
        | {
            "heads.match.center": random(64),
            "heads.match.directions": torch.linalg.qr(random(64, 5))[0].T.contiguous(),
            "heads.match.weight": 3 * random(1, 64),
            "heads.match.bias": random(1),
            "heads.rerank.0.weight": random(6, width),
            "heads.rerank.0.bias": random(6),
            "heads.rerank.1.weight": random(1, 6),
            "heads.classify.weight": random(3, width),
            "heads.classify.bias": random(3),
        },
        path,
        {"format": "pt"},
    )
    late = {
        "center": "heads.match.center",
        "directions": "heads.match.directions",
        "weight": {"weight": "heads.match.weight", "bias": "heads.match.bias"},
        "features": list(LATE_FEATURES),
        **changes,
    }
    first = {"weight": "heads.rerank.0.weight", "bias": "heads.rerank.0.bias"}
    config = json.loads((folder / "config.json").read_text())
    config["polyrank_heads"] = {
        "rerank": {
            "late_interaction": late,
            "layers": [{**first, "nonlinearity": "gelu"}, {"weight": "heads.rerank.1.weight"}],
            "activation": "sigmoid",
            "labels": ["relevant"],
        },
        "classify": {
            "late_interaction": late,
            "layers": [{"weight": "heads.classify.weight", "bias": "heads.classify.bias"}],
            "activation": "softmax",
            "labels": ["irrelevant", "neutral", "relevant"],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _save_multi_vector(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    prompts: dict[str, str],
    **settings: object,
) -> Path:
    body = _save(model, tokenizer, folder.parent / f"{folder.name}-body")
    modules = [
        Transformer(str(body), **settings),
        Dense(
            SIZES["hidden_size"],
            24,
            bias=False,
            activation_function=torch.nn.Identity(),
            module_input_name="token_embeddings",
        ),
        MultiVectorMask(skiplist_words=list(string.punctuation)),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder))
    return folder


def multi_vector(folder: Path) -> Path:
    """sentence-transformers 6: a BERT body, queries of any length, no expansion."""
    tokenizer = bert_tokenizer(512)
    model = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer)))
    return _save_multi_vector(folder, tokenizer, model, {}, document_length=40, query_length=20)


def multi_vector_expanded(folder: Path) -> Path:
    """sentence-transformers 6: an XLM-R body, prompts, and queries of 32 tokens at least."""
    tokenizer = xlm_roberta_tokenizer(512)
    model = XLMRobertaModel(_xlm_roberta_config(len(tokenizer)))
    expansion = {"strategy": "min", "attend": True, "length": 32}
    prompts = {"query": "query: ", "document": "passage: "}
    return _save_multi_vector(folder, tokenizer, model, prompts, query_expansion=expansion)


def pylate(folder: Path) -> Path:
    """PyLate: markers that are added tokens, [MASK] that is not attended to."""
    tokenizer = bert_tokenizer(512)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    model = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer)))
    _save_multi_vector(folder, tokenizer, model, {})
    path = folder / "modules.json"
    kept = json.loads(path.read_text())[:2]
    kept[0]["type"] = "sentence_transformers.models.Transformer"
    kept[1]["type"] = "pylate.models.Dense.Dense"
    path.write_text(json.dumps(kept))
    dense = {"in_features": 64, "out_features": 24, "bias": False}
    activation = {"activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "1_Dense/config.json").write_text(json.dumps(dense | activation))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 511}))
    settings = {
        "model_type": "ColBERT",
        "prompts": {},
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 32,
        "document_length": 60,
        "attend_to_expansion_tokens": False,
        "do_query_expansion": True,
        "skiplist_words": list(string.punctuation),
        "similarity_fn_name": "MaxSim",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def stanford(folder: Path) -> Path:
    """Stanford's ColBERT: a projection in the body's own file, [unused0] and [unused1]."""
    tokenizer = bert_tokenizer(512)
    config = BertConfig(**SIZES, vocab_size=len(tokenizer) + 2)
    _save(BertModel(config), tokenizer, folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    for name in ("[unused0]", "[unused1]"):
        data["model"]["vocab"][name] = len(data["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(data))
    weights = {f"bert.{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(24, 64) / 8
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"architectures": ["HF_ColBERT"]}))
    told = {"query_maxlen": 24, "doc_maxlen": 50, "mask_punctuation": True}
    marks = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]"}
    (folder / "artifact.metadata").write_text(json.dumps(told | marks))
    return folder


RERANKERS: dict[str, Callable[[Path], Path]] = {
    "bge-reranker-v2-m3": bge_reranker_v2_m3,
    "bge-reranker-base": bge_reranker_base,
    "bert-reranker": bert_reranker,
}
CLASSIFIERS: dict[str, Callable[[Path], Path]] = {
    "three-way-classifier": three_way_classifier,
    "multi-label-classifier": multi_label_classifier,
}
EMBEDDERS: dict[str, Callable[[Path], Path]] = {
    "multilingual-e5-small": multilingual_e5_small,
    "multilingual-e5-large": multilingual_e5_large,
    "paraphrase-multilingual-mpnet-base-v2": paraphrase_multilingual_mpnet,
    "UAE-Large-V1": uae_large,
    "dense-embedder": dense_embedder,
}
MULTI_VECTOR: dict[str, Callable[[Path], Path]] = {
    "multi-vector": multi_vector,
    "multi-vector-expanded": multi_vector_expanded,
    "pylate": pylate,
    "stanford": stanford,
}
MAKERS = {**RERANKERS, **CLASSIFIERS, **EMBEDDERS, **MULTI_VECTOR}


def make(name: str, parent: Path, seed: int = 0) -> Path:
    """Write a checkpoint by name into a folder of that name, the same at every call."""
    torch.manual_seed(seed)
    folder = parent / name
    folder.mkdir(parents=True)
    return MAKERS[name](folder)
