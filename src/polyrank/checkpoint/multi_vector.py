"""Foreign folders of late interaction: sentence-transformers 6, PyLate and Stanford's ColBERT.

All three project the token rows of two texts, leave some tokens out, scale what is left to unit
length, and sum up for each token of the query its best product with a token of the document. They
differ in where they say so; sentence-transformers reads all three, and so does this.
"""

import string

from polyrank.checkpoint.layouts import CONFIG_FILE, PROMPTS_FILE, TOKENIZER_CONFIG_FILE
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.settings import MAX_SIZE, Settings
from polyrank.checkpoint.spec import DenseSpec, HeadSpec, MultiVectorSpec
from polyrank.errors import UnsupportedArchitectureError

STANFORD = "HF_ColBERT"
METADATA_FILE = "artifact.metadata"
PUNCTUATION = tuple(string.punctuation)
EXPANSION = 32  # tokens of a query where a folder of PyLate or Stanford names no number
_PYLATE_KEYS = (
    "query_prefix",
    "document_prefix",
    "do_query_expansion",
    "attend_to_expansion_tokens",
)


def read_multi_vector(config: Settings, modules: Modules) -> HeadSpec | None:
    """Return the head of a folder of late interaction, None where it is no such folder.

    Args:
        config: Content of config.json.
        modules: Sentence-transformers modules of the folder.

    Returns:
        A head whose layers project token rows; it scores pairs.

    Raises:
        UnsupportedArchitectureError: If it does what polyrank does not.
        CheckpointError: If a setting is no such thing.
    """
    saved = Settings.read_optional(modules.folder / PROMPTS_FILE)
    kind = saved.text("model_type")
    if STANFORD in config.texts("architectures"):
        layers = (DenseSpec("linear.weight", None, "identity"),)
        return HeadSpec((), layers, is_normalized=True, multi_vector=_stanford(modules))
    if kind == "ColBERT" or (
        kind != "MultiVectorEncoder" and any(k in saved for k in _PYLATE_KEYS)
    ):
        chain = modules.head()
        spec = _pylate(saved, modules)
        return HeadSpec((), chain.layers, is_normalized=True, multi_vector=spec)
    if kind != "MultiVectorEncoder":
        return None
    chain = modules.head()
    spec = _native(saved, modules)
    return HeadSpec((), chain.layers, chain.is_normalized, multi_vector=spec)


def _stanford(modules: Modules) -> MultiVectorSpec:
    told = Settings.read_optional(modules.folder / METADATA_FILE)
    is_skipping = told.flag("mask_punctuation", default=True)
    return MultiVectorSpec(
        document_length=_length(told, "doc_maxlen"),
        expansion_length=_length(told, "query_maxlen") or EXPANSION,
        expansion_token=_mask_token(modules),
        is_attended=told.flag("attend_to_mask_tokens", default=False),
        skipped_words=PUNCTUATION if is_skipping else (),
        query_prefix=(told.text("query_token_id") or "[unused0]") + " ",
        document_prefix=(told.text("doc_token_id") or "[unused1]") + " ",
    )


def _pylate(saved: Settings, modules: Modules) -> MultiVectorSpec:
    query_length = _length(saved, "query_length")
    is_expanding = saved.flag("do_query_expansion", default=True)
    is_listed = "skiplist_words" in saved
    return MultiVectorSpec(
        query_length=None if is_expanding else query_length,
        document_length=_length(saved, "document_length"),
        expansion_length=(query_length or EXPANSION) if is_expanding else 0,
        expansion_token=_mask_token(modules),
        is_attended=saved.flag("attend_to_expansion_tokens", default=False),
        skipped_words=saved.texts("skiplist_words") if is_listed else PUNCTUATION,
        query_prefix=saved.text("query_prefix") or "",
        document_prefix=saved.text("document_prefix") or "",
        is_mean=saved.text("similarity_fn_name") == "meanmaxsim",
    )


def _native(saved: Settings, modules: Modules) -> MultiVectorSpec:
    body, mask = modules.transformer_settings(), _mask_settings(modules)
    expansion = body.mapping("query_expansion")
    length = _length(expansion, "length")
    if mask.content.get("keep_only_token_ids"):
        raise UnsupportedArchitectureError(
            f"{mask.path} keeps only some tokens of documents (keep_only_token_ids), as models of "
            "images do; polyrank reads texts."
        )
    return MultiVectorSpec(
        query_length=_length(body, "query_length"),
        document_length=_length(body, "document_length"),
        expansion_length=length or 0,
        is_fixed=expansion.choice("strategy", {"fixed": True, "min": False}, "fixed"),
        expansion_token=expansion.text("token") or _mask_token(modules),
        is_attended=expansion.flag("attend", default=False),
        skipped_words=mask.texts("skiplist_words"),
        skips_queries="query" in mask.texts("skiplist_tasks"),
        skips_documents="document" in (mask.texts("skiplist_tasks") or ("document",)),
        is_mean=saved.text("similarity_fn_name") == "meanmaxsim",
    )


def _mask_settings(modules: Modules) -> Settings:
    folders = [folder for kind, folder in modules.chain if kind == "multi_vector_mask"]
    if not folders:
        return Settings({}, modules.path)
    return Settings.read_optional(folders[0] / CONFIG_FILE)


def _length(settings: Settings, key: str) -> int | None:
    if settings.content.get(key) is None:
        return None
    return settings.integer(key, low=1, high=MAX_SIZE)


def _mask_token(modules: Modules) -> str:
    """Return what fills queries up; tokenizers without one have ``[MASK]`` looked for in vain."""
    saved = Settings.read_optional(modules.body_folder / TOKENIZER_CONFIG_FILE)
    token = saved.content.get("mask_token")
    if isinstance(token, dict):  # as transformers 4 wrote it
        token = token.get("content")
    return token if isinstance(token, str) else "[MASK]"
