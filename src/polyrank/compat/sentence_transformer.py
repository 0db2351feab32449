"""`SentenceTransformer` as sentence-transformers has it, with an `Embedder` behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyrank.checkpoint.layouts import PROMPTS_FILE
from polyrank.checkpoint.similarity import read_similarity
from polyrank.checkpoint.spec import PromptsSpec
from polyrank.compat.arguments import ResultForm, encoder_of, translated
from polyrank.compat.vectors import compare, shaped
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import ModelName
from polyrank.text.prompts import choose_prompt
from polyrank.types import OutputDtype


class SentenceTransformer:
    """Vectors of texts by `encode` and its kin, compared by `similarity`."""

    def __init__(
        self,
        model: ModelName = None,
        *,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        **arguments: Any,
    ) -> None:
        """Load an embedder by arguments of sentence-transformers."""
        encoder = encoder_of("SentenceTransformer", arguments.pop("backend", None))
        given = translated("SentenceTransformer", arguments)
        self.model = Embedder(model, encoder=encoder, long_texts="truncate", **given)
        own, folder = self.model.spec.prompts, self.model.spec.folder
        # what only a model card asks for, sentence-transformers leaves to the caller
        saved = own.by_name if own.origin == PROMPTS_FILE else {}
        default = default_prompt_name or own.default
        self._prompts = PromptsSpec({**saved, **(prompts or {})}, default)
        self.similarity_fn_name = similarity_fn_name or read_similarity(folder)
        self.truncate_dim = truncate_dim

    def encode(
        self,
        inputs: str | Sequence[str],
        *,
        precision: OutputDtype = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **arguments: Any,
    ) -> Any:
        """Return one vector a text, or the vector of a single text."""
        if arguments.get("output_value") == "sentence_embedding":
            del arguments["output_value"]
        named = {name: arguments.pop(name, None) for name in ("prompt", "prompt_name")}
        is_single = isinstance(inputs, str)
        answer = ResultForm("SentenceTransformer.encode", arguments, is_single=is_single)
        prompt = choose_prompt(self._prompts, **named)
        with answer.progress() as progress:
            texts: Any = [inputs] if is_single else inputs
            vectors = self.model.encode(texts, prompt=prompt, progress=progress)
        size = truncate_dim or self.truncate_dim
        return answer.of(shaped(vectors, size, precision, is_normalized=normalize_embeddings))

    def encode_query(self, inputs: str | Sequence[str], **arguments: Any) -> Any:
        """Return vectors of questions, with the checkpoint's prompt "query" if it has one."""
        return self.encode(inputs, **self._prompted(("query",), arguments))

    def encode_document(self, inputs: str | Sequence[str], **arguments: Any) -> Any:
        """Return vectors of what is searched, with its prompt "document", "passage" or "corpus"."""
        return self.encode(inputs, **self._prompted(("document", "passage", "corpus"), arguments))

    def _prompted(self, names: tuple[str, ...], arguments: dict[str, Any]) -> dict[str, Any]:
        known = [name for name in names if name in self._prompts.by_name]
        is_asked = any(arguments.get(name) is not None for name in ("prompt", "prompt_name"))
        return arguments if is_asked or not known else {**arguments, "prompt_name": known[0]}

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each vector of the first to each of the second."""
        return compare(self.similarity_fn_name, embeddings1, embeddings2)

    def get_embedding_dimension(self) -> int:
        """Return the values of a vector."""
        return self.truncate_dim or self.model.dimensions

    get_sentence_embedding_dimension = get_embedding_dimension
