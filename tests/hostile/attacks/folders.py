"""The table of malformed folders: what is done to a good one, and the error that it ends in."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.attacks.mutations import (
    GONE,
    Mutation,
    add,
    bind_socket,
    both,
    change_json,
    charsmap,
    config,
    entry,
    gzip_bomb,
    head,
    header,
    header_text,
    hidden_charsmap,
    instead,
    keys,
    raw,
    replaces,
    shards,
    tensors,
    tokenizer,
    twice,
)

RERANKER, BERT, EMBEDDER, DENSE = (
    "bge-reranker-base",
    "bert-reranker",
    "multilingual-e5-small",
    "dense-embedder",
)
POOLING, PROMPTS = "1_Pooling/config.json", "config_sentence_transformers.json"
LENGTHS, LIMITS, WEIGHTS = "sentence_bert_config.json", "tokenizer_config.json", "model.safetensors"
WORDS = "roberta.embeddings.word_embeddings.weight"
BIAS = "classifier.dense.bias"
DIGITS = 3_000


@dataclass(frozen=True, slots=True)
class Attack:
    """One malformed folder.

    Attributes:
        name: What is wrong with it.
        mutate: What makes it of a copy of a good one.
        error: Class of the error, by name.
        says: What its message holds.
        base: The good one, by its name in `tests.checkpoints`.
    """

    name: str
    mutate: Mutation
    error: str
    says: str
    base: str = RERANKER


def plain(architecture: str, *more: Mutation) -> Mutation:
    """A folder without modules.json that says to be of an architecture."""

    def unlink(folder: Path) -> None:
        (folder / "modules.json").unlink()

    return both(unlink, config(architectures=[architecture]), *more)


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


BAD, UNKNOWN = "CheckpointError", "UnsupportedArchitectureError"
GONE_FILE, MISSING, CORRUPT = "CheckpointNotFoundError", "MissingWeightError", "CorruptWeightsError"

NUMBERS: tuple[tuple[str, Any, str], ...] = (
    ("layer_norm_eps", "small", "finite number"),
    ("layer_norm_eps", -1, "finite number"),
    ("layer_norm_eps", 0, "finite number"),
    ("layer_norm_eps", float("nan"), "finite number"),
    ("layer_norm_eps", float("inf"), "finite number"),
    ("layer_norm_eps", True, "finite number"),
    ("pad_token_id", -100, "0 or more"),
    ("pad_token_id", -3, "0 or more"),
    ("pad_token_id", -(10**6), "0 or more"),
    ("pad_token_id", 10**6, "at most"),
    ("pad_token_id", 2**40, "at most"),
    ("pad_token_id", 1.0, "whole number"),
    ("pad_token_id", "1", "whole number"),
    ("pad_token_id", True, "whole number"),
    ("pad_token_id", 600, "none is left"),
    ("num_hidden_layers", 10**8, "4,096 at most"),
    ("num_hidden_layers", 10**300, "4,096 at most"),
    ("num_hidden_layers", [3], "above 0"),
    ("hidden_size", 2**62, "at most"),
    ("hidden_size", 64.0, "above 0"),
    ("num_attention_heads", 0, "above 0"),
    ("intermediate_size", -96, "above 0"),
    ("vocab_size", 10**15, "at most"),
    ("vocab_size", {}, "above 0"),
    ("max_position_embeddings", 2**31, "at most"),
    ("max_position_embeddings", 2, "none is left"),
    ("type_vocab_size", -1, "above 0"),
    ("type_vocab_size", 10**12, "at most"),
    ("is_decoder", "no", "true or false"),
    ("model_type", ["xlm-roberta"], "a text"),
    ("hidden_act", {"name": "gelu"}, "a text"),
    ("architectures", 5, "list of"),
    ("architectures", [5], "list of"),
    ("architectures", "XLMRobertaModel", "list of"),
    ("id2label", ["no"], "an object"),
    ("id2label", {}, "labels 0 to n-1"),
    ("id2label", {"0": ["no"]}, "labels 0 to n-1"),
    ("id2label", {"1": "no"}, "labels 0 to n-1"),
    ("id2label", {"0": "\ud800"}, "labels 0 to n-1"),
    ("problem_type", 7, "a text"),
    ("sentence_transformers", 3, "an object"),
    ("polyrank_quantization", 8, "an object"),
    ("polyrank_heads", [], "an object"),
    ("polyrank_first_stage_weights", {"dense": 10**400}, "finite number"),
)

SETTINGS = (
    *(
        Attack(f"{key} is {value!r:.40}", config(**{key: value}), BAD, says)
        for key, value, says in NUMBERS
    ),
    Attack("layers that are not there", config(num_hidden_layers=4000), MISSING, "layer.3999."),
    Attack("layers that are left over", config(num_hidden_layers=2), UNKNOWN, "speaks of 2 layers"),
    Attack(
        "a billion labels", config(id2label=GONE, label2id=GONE, num_labels=10**9), BAD, "at most"
    ),
    Attack("an activation of another kind", config(hidden_act="laplace"), UNKNOWN, "'laplace'"),
    Attack(
        "scores by a function that is not known",
        config(sbert_ce_default_activation_function="torch.nn.ReLU"),
        UNKNOWN,
        "'torch.nn.ReLU'",
    ),
    Attack("a head's activation", head(activation="tan"), BAD, "sigmoid, softmax, identity"),
    Attack("a head's nonlinearity", head(layers=[{"weight": "a", "nonlinearity": 1}]), BAD, "gelu"),
    Attack("labels that are one text", head(labels="abc"), BAD, "list of"),
    Attack("a head of 10^5 layers", head(layers=[{"weight": "a"}] * 10**5), BAD, "16 objects"),
    Attack("a key that no head has", head(similarity_weight=1.0), BAD, "must be left out"),
    Attack("normalize as text", head(normalize="yes"), BAD, "true or false"),
    Attack("a head's tensor by a number", head(layers=[{"weight": 5}]), BAD, "a text"),
    Attack("config of deep JSON", raw("config.json", deep(500)), BAD, "64 deep"),
    Attack("config of very deep JSON", raw("config.json", "[" * 10**6), BAD, "deep"),
    Attack(
        "a number of many digits", raw("config.json", f'{{"a": {"9" * 4000}}}'), BAD, "4,000 digits"
    ),
    Attack("config without end", raw("config.json", b" " * (5 << 20)), BAD, "takes more than"),
    Attack("config in UTF-16", raw("config.json", "{}".encode("utf-16")), BAD, "as JSON"),
    Attack("config in Latin-1", raw("config.json", b'{"a": "\xe9"}'), BAD, "as JSON"),
)

PLACES = (
    Attack("a pipe as config", instead("config.json", os.mkfifo), BAD, "but a pipe"),
    Attack("a pipe as weights", instead(WEIGHTS, os.mkfifo), BAD, "but a pipe"),
    Attack("a pipe as tokenizer", instead("tokenizer.json", os.mkfifo), BAD, "but a pipe"),
    Attack(
        "weights whose bytes cannot be read",  # a regular file to all who ask
        instead(WEIGHTS, lambda path: path.symlink_to("/proc/self/mem")),
        BAD,
        "cannot be read",
    ),
    Attack(
        "a device as config",
        instead("config.json", lambda path: path.symlink_to("/dev/zero")),
        BAD,
        "but a device",
    ),
    Attack(
        "a device as weights",
        instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
        BAD,
        "but a device",
    ),
    Attack(
        "a device as tokenizer",
        instead("tokenizer.json", lambda path: path.symlink_to("/dev/zero")),
        BAD,
        "but a device",
    ),
    Attack("a socket as config", instead("config.json", bind_socket), BAD, "but a socket"),
    Attack("a folder as config", instead("config.json", Path.mkdir), BAD, "but a folder"),
    Attack(
        "a link to itself",
        instead("config.json", lambda path: path.symlink_to(path.name)),
        BAD,
        "cannot be looked at",
    ),
    Attack(
        "a link to nowhere",
        instead("config.json", lambda path: path.symlink_to("nowhere")),
        GONE_FILE,
        "no config.json",
    ),
    Attack("a pipe as length limits", lambda folder: os.mkfifo(folder / LENGTHS), BAD, "a pipe"),
)

MODULES = (
    Attack("modules that are a number", raw("modules.json", "5"), BAD, "list of", EMBEDDER),
    Attack("modules that are numbers", raw("modules.json", "[5]"), BAD, "list of", EMBEDDER),
    Attack(
        "a module's type is a number",
        change_json("modules.json", lambda found: found[0].update(type=5)),
        BAD,
        "a text",
        EMBEDDER,
    ),
    Attack(
        "a module without a path",
        change_json("modules.json", lambda found: found[1].__delitem__("path")),
        BAD,
        "lacks the key 'modules[1].path'",
        EMBEDDER,
    ),
    Attack(
        "a module's path holds a zero byte",
        change_json("modules.json", lambda found: found[1].update(path="a\0b")),
        BAD,
        "name of a folder",
        EMBEDDER,
    ),
    Attack(
        "a module's path is endless",
        change_json("modules.json", lambda found: found[1].update(path="a" * 10**4)),
        BAD,
        "name of a folder",
        EMBEDDER,
    ),
    Attack(
        "a module's path is half a surrogate",
        change_json("modules.json", lambda found: found[1].update(path="\ud800")),
        BAD,
        "a text",
        EMBEDDER,
    ),
    Attack(
        "a million modules",
        change_json("modules.json", lambda found: found[:2] + found[2:] * 20_000),
        BAD,
        "64 objects",
        EMBEDDER,
    ),
    Attack(
        "a hundred thousand pooling modes",
        keys(POOLING, pooling_mode=["mean"] * 10**5),
        BAD,
        "list of",
        EMBEDDER,
    ),
    Attack(
        "the same pooling twice",
        keys(POOLING, pooling_mode=["mean", "mean"]),
        BAD,
        "named once",
        EMBEDDER,
    ),
    Attack("pooling by a number", keys(POOLING, pooling_mode=5), BAD, "list of", EMBEDDER),
    Attack(
        "a pooling flag as text",
        change_json(POOLING, lambda _: {"pooling_mode_cls_token": "no"}),
        BAD,
        "true or false",
        EMBEDDER,
    ),
    Attack("include_prompt as text", keys(POOLING, include_prompt="no"), BAD, "true or", EMBEDDER),
    Attack("prompts in a list", keys(PROMPTS, prompts=["a"]), BAD, "an object", EMBEDDER),
    Attack("a prompt by a number", keys(PROMPTS, prompts={"query": 3}), BAD, "a text", EMBEDDER),
    Attack("half a surrogate", keys(PROMPTS, prompts={"query": "\udc00"}), BAD, "text", EMBEDDER),
    Attack("a default prompt in a list", keys(PROMPTS, default_prompt_name=[]), BAD, "", EMBEDDER),
    Attack("max_seq_length as text", keys(LENGTHS, max_seq_length="long"), BAD, "whole", EMBEDDER),
    Attack("max_seq_length below 0", keys(LENGTHS, max_seq_length=-5), BAD, "above 0", EMBEDDER),
    Attack("do_lower_case as text", keys(LENGTHS, do_lower_case="no"), BAD, "true or", EMBEDDER),
    Attack("model_max_length as text", keys(LIMITS, model_max_length="long"), BAD, "finite number"),
    Attack("a Dense of unknown activation", keys("2_Dense/config.json", activation_function=3),
           BAD, "a text", DENSE),
    Attack("a Dense whose bias is not read", keys("2_Dense/config.json", bias=False),
           UNKNOWN, "linear.bias", DENSE),
)  # fmt: skip

HEADS = (
    Attack("a ColBERT folder of another width", plain("HF_ColBERT", add(linear__weight=(128, 60))),
           CORRUPT, "needs [128, 64]", EMBEDDER),
    Attack("a ColBERT folder that says to be a body",
           plain("BertModel", add(linear__weight=(8, 64))), UNKNOWN, "ColBERT", EMBEDDER),
    Attack("a ColBERT projection beside pooling", add(linear__weight=(128, 64)), UNKNOWN,
           "ColBERT", EMBEDDER),
    Attack("a masked-language model of BERT",
           plain("BertForMaskedLM", add(cls__predictions__bias=(9,))), UNKNOWN,
           "masked-language-model head", EMBEDDER),
    Attack("a masked-language model of XLM-R", config(architectures=["XLMRobertaForMaskedLM"]),
           UNKNOWN, "'classifier.dense.bias', 'class"),
    Attack("a masked-language model without its head", plain("BertForMaskedLM"), UNKNOWN,
           "'BertForMaskedLM', which neither embeds nor scores", EMBEDDER),
    Attack("a classifier of tokens", plain("BertForTokenClassification",
           add(classifier__weight=(9, 64), classifier__bias=(9,))),
           UNKNOWN, "classifier of another architecture", EMBEDDER),
    Attack("answers to questions",
           plain("BertForQuestionAnswering", add(qa_outputs__weight=(2, 64))), UNKNOWN,
           "answers questions", EMBEDDER),
    Attack("an adapter beside the weights", raw("adapter_config.json", "{}"), UNKNOWN,
           "adapter_config.json"),
    Attack("an adapter among the weights", add(roberta__x__lora_A__weight=(4, 64)), UNKNOWN,
           "tensors of an adapter"),
    Attack("a tensor that nobody knows", add(extra=(4,)), UNKNOWN, "'extra'"),
    Attack("the body twice", tensors(lambda found: found.update(
           {name[8:]: value for name, value in found.items() if name.startswith("roberta.")})),
           UNKNOWN, "does not read"),
)  # fmt: skip

FILES = (
    Attack("bytes behind the tensors", header(lambda content: None, b"more"), CORRUPT,
           "behind its"),
    Attack("a hole", header(lambda content: [each["data_offsets"].__setitem__(
           slice(None), [at + 4 for at in each["data_offsets"]]) for name, each in content.items()
           if name != "__metadata__"], bytes(4)), CORRUPT, "leaves a hole"),
    Attack("an overlap", header(lambda content: content.update(
           x={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})), CORRUPT, "overlaps"),
    Attack("a name twice", header_text(lambda text: text.replace(
           b"{", b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
                 b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},', 1)), CORRUPT, "twice"),
    Attack("a key of an entry twice", header_text(lambda text: text.replace(
           b'"dtype"', b'"dtype":"F32","dtype"', 1)), CORRUPT, "twice"),
    Attack("a header in UTF-16", header_text(lambda text: text.decode().encode("utf-16")),
           CORRUPT, "not a JSON object"),
    Attack("a header with a mark of UTF-8", header_text(lambda text: b"\xef\xbb\xbf" + text),
           CORRUPT, "not a JSON object"),
    Attack("a header behind a blank", header_text(lambda text: b" " + text), CORRUPT,
           "begins with"),
    Attack("metadata that are no texts", header(lambda content: content.update(
           __metadata__={"format": 5})), CORRUPT, "texts to texts"),
    Attack("metadata in a list", header(lambda content: content.update(__metadata__=["pt"])),
           CORRUPT, "texts to texts"),
    Attack("a header of deep JSON", header_text(lambda text: b'{"a":' * 900 + b"1" + b"}" * 900),
           CORRUPT, "deep"),
    Attack("a shape of 3,000 digits", header_text(lambda text: text.replace(
           b'"shape":[', b'"shape":[' + b"9" * DIGITS + b",", 1)), CORRUPT, "3,000 digits"),
    Attack("a shape whose product runs over", entry(BIAS, shape=[2**40, 2**40]), CORRUPT,
           "contradicts itself"),
    Attack("a shape of true", entry(BIAS, shape=[True, 64]), CORRUPT, "wrongly"),
    Attack("a shape of 64.0", entry(BIAS, shape=[64.0]), CORRUPT, "wrongly"),
    Attack("a type that is none", entry(BIAS, dtype="F31"), CORRUPT, "'F31'"),
    Attack("a type that is a list", entry(BIAS, dtype=["F32"]), CORRUPT, "wrongly"),
    Attack("an entry that is a number", header(lambda content: content.update({BIAS: 5})),
           CORRUPT, "wrongly"),
    Attack("offsets that are three", entry(BIAS, data_offsets=[0, 1, 2]), CORRUPT, "wrongly"),
    Attack("offsets beyond 64 bits", entry(BIAS, data_offsets=[0, 2**80]), CORRUPT, "wrongly"),
    Attack("a header longer than any", raw(WEIGHTS, (2**62).to_bytes(8, "little") + bytes(64)),
           CORRUPT, "not a whole"),
    Attack("an empty weight file", raw(WEIGHTS, b""), CORRUPT, "not a whole"),
    Attack("shards in a list", shards(["a.safetensors"]), CORRUPT, "not an index"),
    Attack("a shard by a number", shards({"x": 5}), CORRUPT, "not an index"),
    Attack("no shard at all", shards({}), CORRUPT, "names 0 of them"),
    Attack("ten thousand shards", shards({f"{i}": f"{i}.safetensors" for i in range(10**4)}),
           CORRUPT, "10,000"),
    Attack("a shard of another folder", shards({"x": "/etc/passwd"}), CORRUPT,
           "outside its folder"),
    Attack("a tensor in two shards", twice, CORRUPT, "and again in"),
)  # fmt: skip

TABLE = b"\x08\0\0\0" + bytes(8)  # a trie of two words; the replacements follow
TOKENIZERS = (
    Attack("a table that lies about its size", charsmap(b"\xf0\xff\xff\xff" + bytes(8)), BAD,
           "trie takes 4,294,967,280 bytes"),
    Attack("a table that is hidden", hidden_charsmap, BAD, "trie takes 4,294,967,280 bytes"),
    Attack("a table of no bytes", charsmap(b""), BAD, "trie takes 0 bytes"),
    Attack("a table of three bytes", charsmap(b"\1\2\3"), BAD, "trie takes"),
    Attack("a table of crooked words", charsmap(b"\x07\0\0\0" + bytes(8)), BAD, "trie takes 7"),
    Attack("a table in no base64", charsmap("%%%"), BAD, "base64"),
    Attack("a table that is no text", tokenizer(normalizer={
           "type": "Precompiled", "precompiled_charsmap": [1]}), BAD, "not a text"),
    Attack("replacements in no UTF-8", charsmap(TABLE + b"\xff\xfe"), BAD, "no UTF-8"),
    Attack("a replacement of a megabyte", charsmap(TABLE + b"a" * 10**6), BAD, "of one match"),
    Attack("forty doublings", replaces(*[("a", "aa")] * 40), BAD, "times as long"),
    Attack("forty doublings by expressions", replaces(*[({"Regex": "."}, "aa")] * 40), BAD,
           "times as long"),
    Attack("forty doublings when decoding", replaces(*[("a", "aa")] * 40, key="decoder"), BAD,
           "times as long"),
    Attack("a long replacement", replaces(("a", "b" * 10**5)), BAD, "times as long"),
    Attack("a long replacement of a long text", replaces(("b" * 10**5, "b" * 10**5)), BAD,
           "beyond 4,096"),
    Attack("an expression that counts to 10^10", replaces(({"Regex": "(a{99999}){99999}"}, "")),
           BAD, "repeats a part"),
    Attack("a replacement that is a number", tokenizer(normalizer={
           "type": "Replace", "pattern": {"String": "a"}, "content": 5}), BAD, "a Replace needs"),
    Attack("the normaliser twice", lambda folder: (folder / "tokenizer.json").write_text(
           '{"normalizer": null, ' + (folder / "tokenizer.json").read_text("utf8")[1:], "utf8"),
           BAD, "twice"),
    Attack("a list as tokenizer", raw("tokenizer.json", "[]"), BAD, "not a JSON object"),
    Attack("a tokenizer of deep JSON", raw("tokenizer.json", deep(5000)), BAD, "deep"),
    Attack("a small file that expands", gzip_bomb, BAD, "expands beyond"),
    Attack("a model that is none", tokenizer(model={"type": "Oracle", "vocab": {}}), BAD,
           "not a tokenizer.json"),
    Attack("an id beyond 32 bits", change_json("tokenizer.json", lambda found: found[
           "model"]["vocab"].update(zzz=2**31 + 5)), BAD, "embedding table only", BERT),
    Attack("an id beyond the table", change_json("tokenizer.json", lambda found: found[
           "model"]["vocab"].update(zzz=10**5)), BAD, "embedding table only", BERT),
    Attack("an added token beyond the table", change_json("tokenizer.json", lambda found: found[
           "added_tokens"].append({**found["added_tokens"][0], "content": "zz", "id": 10**6})),
           BAD, ""),
    Attack("a special token beyond the table", change_json("tokenizer.json", lambda found: found[
           "post_processor"]["special_tokens"]["[CLS]"].update(ids=[10**6])), BAD,
           "embedding table only", BERT),
    Attack("a special token beyond 31 bits", change_json("tokenizer.json", lambda found: found[
           "post_processor"]["special_tokens"]["[CLS]"].update(ids=[2**32 - 1])), BAD,
           "", BERT),
    Attack("a segment beyond the table", change_json("tokenizer.json", lambda found: found[
           "post_processor"]["pair"][-1]["SpecialToken"].update(type_id=77)), BAD,
           "segment 77", BERT),
    Attack("text without tokens", tokenizer(normalizer={
           "type": "Replace", "pattern": {"Regex": "."}, "content": ""}), BAD, "no token"),
    Attack("no piece for what is unknown", change_json("tokenizer.json", lambda found: found[
           "model"].update(unk_token="[NONE]")), BAD, "not a tokenizer.json", BERT),
    Attack("words without an end", change_json("tokenizer.json", lambda found: found[
           "model"].update(max_input_chars_per_word=10**9)), BAD, "max_input_chars", BERT),
)  # fmt: skip

ATTACKS = (*SETTINGS, *PLACES, *MODULES, *HEADS, *FILES, *TOKENIZERS)
