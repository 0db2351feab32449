"""polyrank's late interaction written as a multi-vector folder of sentence-transformers 6.

What a head of late interaction does to token rows before it compares them, taking out a center and
some directions, is a linear layer; so other libraries and stores can make the same rows. What the
head then does with the products (weights of tokens, sharper matches, lengths) they cannot: they
take the mean of the best products.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from polyrank.checkpoint.body import tensor_shapes
from polyrank.checkpoint.building import check_free
from polyrank.checkpoint.files import read_object, read_plain
from polyrank.checkpoint.layouts import (
    CONFIG_FILE,
    MODULES_FILE,
    PROMPTS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    TRANSFORMER_CONFIG_FILES,
    WEIGHTS_FILE,
)
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.saving import save_aligned
from polyrank.errors import CapabilityError
from polyrank.tasks.heads import Head, LateInteraction
from polyrank.text.prompts import prompt_for_input_type
from polyrank.text.tokenizer import Tokenizer

_MODULES = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_Dense": "sentence_transformers.base.modules.dense.Dense",
    "2_MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask."
    "MultiVectorMask",
    "3_Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_ROWS = "token_embeddings"
_IDENTITY = "torch.nn.modules.linear.Identity"
_ARCHITECTURES = {"bert": "BertModel", "xlm-roberta": "XLMRobertaModel"}


def export_multi_vector(checkpoint: Checkpoint, output: Path) -> None:
    """Write a checkpoint with a rerank head of late interaction as a multi-vector folder.

    Args:
        checkpoint: The checkpoint; quantised tensors are written as float32.
        output: Folder to make, whole or not at all.

    Raises:
        ConfigError: If there is something of that name already.
        CapabilityError: If the checkpoint has no such head.
        OSError: If it cannot be written.
    """
    check_free(output)
    spec = checkpoint.spec.heads.get("rerank")
    if spec is None or spec.late_interaction is None:
        raise CapabilityError(
            f"{checkpoint.spec.name} has no rerank head of late interaction, whose rows could be "
            "exported. `polyrank info MODEL` shows what a checkpoint has."
        )
    interaction = Head.load(checkpoint, spec).late_interaction
    assert interaction is not None
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as made:
        folder = Path(made) / output.name
        folder.mkdir()
        _write_body(checkpoint, folder)
        _write_dense(interaction, folder / "1_Dense")
        _write_mask(checkpoint, folder / "2_MultiVectorMask")
        _write(folder / "3_Normalize" / CONFIG_FILE, _between())
        _write_settings(checkpoint, folder)
        os.replace(folder, output)


def _write_body(checkpoint: Checkpoint, folder: Path) -> None:
    body = checkpoint.spec.body
    names = tensor_shapes(body)
    save_aligned({name: checkpoint.body_float32(name) for name in names}, folder / WEIGHTS_FILE)
    source = checkpoint.tokenizer_file.parent
    config = read_object(source / CONFIG_FILE)
    kept = {key: value for key, value in config.items() if not key.startswith("polyrank_")}
    kept |= {"architectures": [_ARCHITECTURES.get(body.model_type, "AutoModel")]}
    _write(folder / CONFIG_FILE, kept | {"dtype": "float32"})
    (folder / TOKENIZER_FILE).write_bytes(read_plain(checkpoint.tokenizer_file))
    for name in (TOKENIZER_CONFIG_FILE, "special_tokens_map.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    limits = {"max_seq_length": checkpoint.spec.max_length, "do_lower_case": False}
    _write(folder / TRANSFORMER_CONFIG_FILES[0], limits)


def _write_dense(interaction: LateInteraction, folder: Path) -> None:
    """Write ``r -> (r - c) - ((r - c) D^T) D`` as a weight and a bias."""
    center, directions = interaction.center, interaction.directions
    weight = np.eye(len(center), dtype=np.float32) - directions.T @ directions
    folder.mkdir()
    tensors = {"linear.weight": weight, "linear.bias": -(weight @ center)}
    save_aligned(tensors, folder / WEIGHTS_FILE)
    sizes = {"in_features": len(center), "out_features": len(center), "bias": True}
    _write(folder / CONFIG_FILE, sizes | {"activation_function": _IDENTITY} | _between())


def _write_mask(checkpoint: Checkpoint, folder: Path) -> None:
    """Leave out special tokens, and the pieces of prompts wherever they stand: it goes by piece."""
    tokenizer = Tokenizer(checkpoint.tokenizer_file, is_lowercased=checkpoint.spec.is_lowercased)
    prompts = checkpoint.spec.prompts
    texts = [prompt_for_input_type(prompts, role).strip() for role in ("query", "document")]
    special = np.concatenate(tokenizer.single.parts).tolist()
    ids = [*special, *(i for ids in tokenizer.encode(texts) for i in ids.tolist())]
    words = [tokenizer.piece_of(i) for i in dict.fromkeys(ids)]
    settings = {"skiplist_words": words, "skiplist_tasks": ["query", "document"]}
    _write(folder / CONFIG_FILE, settings | {"keep_only_token_ids": None})


def _write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(_MODULES.items())
    ]
    _write(folder / MODULES_FILE, modules)
    prompts = {
        role: prompt_for_input_type(checkpoint.spec.prompts, role) for role in ("query", "document")
    }
    saved = {"model_type": "MultiVectorEncoder", "similarity_fn_name": "meanmaxsim"}
    _write(folder / PROMPTS_FILE, saved | {"prompts": prompts, "default_prompt_name": None})


def _between() -> dict[str, str]:
    return {"module_input_name": _ROWS, "module_output_name": _ROWS}


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf8")
