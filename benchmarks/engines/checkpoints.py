"""Seeded cross-encoders of the two shapes measured, in published layout. Needs torch."""

import json
import shutil
from pathlib import Path

LONG = 8192  # positions
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def small(base: Path, folder: Path, seed: int) -> Path:
    """Write the base model's body with a seeded head of one logit, unless it is there.

    Args:
        base: Folder of multilingual-e5-small.
        folder: Where to write.
        seed: Of the head.

    Returns:
        `folder`.
    """
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(seed)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=1).eval()
    with torch.no_grad():
        # wide enough that logits differ clearly from text to text
        model.bert.pooler.dense.weight.normal_(0, 0.05)
        model.bert.pooler.dense.bias.zero_()
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copy(base / name, folder)
    return folder


def long(short: Path, folder: Path) -> Path:
    """Write the small checkpoint with `LONG` positions, its own again and again, if need be."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(short, folder, ignore=shutil.ignore_patterns("config.json"))
    weights = load_file(short / "model.safetensors")
    name = next(name for name in weights if name.endswith("position_embeddings.weight"))
    table = weights[name]
    weights[name] = table.repeat(-(-LONG // len(table)), 1)[:LONG].contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert weights[name].dtype == torch.float32
    config = json.loads((short / "config.json").read_text("utf8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": LONG}), "utf8"
    )
    return folder


def large(base: Path, folder: Path, seed: int) -> Path:
    """Write XLM-R large with one logit (bge-reranker-v2-m3's shape), unless it is there."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
        intermediate_size=4096, max_position_embeddings=8194, type_vocab_size=1,
        layer_norm_eps=1e-5, num_labels=1, initializer_range=0.05,
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).eval().save_pretrained(folder)
    shutil.copy(base / "tokenizer.json", folder)
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, **special,
        "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf8")
    return folder
