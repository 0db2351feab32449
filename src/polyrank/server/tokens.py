"""Token ids in and out: for tokenise and decode routes, and for clients that send ids for texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polyrank.errors import EmptyRequestError, InputError, PayloadTooLargeError
from polyrank.server.cutting import MAX_CHARACTERS
from polyrank.server.models import ServedModel
from polyrank.text.inputs import check_text
from polyrank.text.tokenizer import Token

if TYPE_CHECKING:
    from polyrank.server.service import Service

_VALUES_OF_TOKEN = 5  # id, text, whether it is special, start and stop
_FOREIGN_IDS = (
    "token ids {at} are not those of model {name!r}: {why}. Send texts; langchain-openai does with "
    "check_embedding_ctx_length=False."
)


class TokenTools:
    """The tokenizers of the served models."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def _served(self, model: str | None) -> ServedModel:
        loaded = self._service.registry.loaded
        by_name = {served.name: served for served in loaded}
        return by_name.get(model or "", loaded[0])

    async def tokenize(
        self, texts: Sequence[str], model: str | None, *, is_special: bool
    ) -> list[list[Token]]:
        """Return the tokens of texts.

        Args:
            texts: The texts.
            model: Whose tokenizer; unknown names mean the first model.
            is_special: Whether special tokens are put around each text.

        Returns:
            Tokens of each text.

        Raises:
            EmptyRequestError: If there is no text.
            PayloadTooLargeError: If the texts, or the reply, would be too long.
        """
        served = self._served(model)
        self._check(texts, "texts")
        num_characters = sum(map(len, texts))
        if num_characters > MAX_CHARACTERS:
            raise PayloadTooLargeError(
                f"the texts have {num_characters:,} characters; this server gives the tokens of "
                f"{MAX_CHARACTERS:,} at once. Ask for fewer."
            )
        checked = [check_text(text, f"text {i}") for i, text in enumerate(texts)]
        tokenizer = served.tokenizer
        found = await self._service.in_worker(tokenizer.tokens, checked, is_special=is_special)
        self._service.admission.check_values(_VALUES_OF_TOKEN * sum(map(len, found)))
        return found

    async def decode(
        self, ids: Sequence[Sequence[int]], model: str | None, *, skip_special: bool
    ) -> list[str]:
        """Return the texts of token ids.

        Args:
            ids: Ids of each text.
            model: As for `tokenize`.
            skip_special: Whether special tokens are left out.

        Returns:
            The texts.

        Raises:
            EmptyRequestError: If there are no ids.
            InputError: If an id is outside the vocabulary.
        """
        served = self._served(model)
        self._check(ids, "lists of ids")

        def run() -> list[str]:
            for i, members in enumerate(ids):
                _check_range(served, members, i)
            return [served.tokenizer.decode(each, skip_special=skip_special) for each in ids]

        return await self._service.in_worker(run)

    async def texts_of(self, inputs: Any, served: ServedModel) -> list[str]:
        """Return the texts that a body's inputs mean.

        Args:
            inputs: A text, a list of texts, a list of token ids, or a list of such lists.
            served: The model that reads them.

        Returns:
            Texts. Ids are decoded, and must be what the model's tokenizer makes of that text:
            ids of another tokenizer would give vectors of nonsense without any error.

        Raises:
            EmptyRequestError: If there is none.
            InputError: If ids are of another tokenizer.
        """
        if isinstance(inputs, str):
            return [inputs]
        if not inputs:
            raise EmptyRequestError("the request holds no text; give one or more")
        if isinstance(inputs[0], int):
            inputs = [inputs]
        self._check(inputs, "texts")
        if all(isinstance(each, str) for each in inputs):
            return list(inputs)
        return await self._service.in_worker(
            lambda: [_text(served, x, i) for i, x in enumerate(inputs)]
        )

    async def shorten(
        self, texts: Sequence[str], num_tokens: int | None, served: ServedModel
    ) -> list[str]:
        """Return texts without what goes beyond some tokens.

        Args:
            texts: The texts.
            num_tokens: Tokens to keep, 1 or more; None keeps all.
            served: The model whose tokens are counted.

        Returns:
            Texts in the same order.
        """
        if num_tokens is None:
            return list(texts)
        tokenizer = served.tokenizer

        def run() -> list[str]:
            # a token spells one character or more, nearly always: short texts need no look
            return [
                text
                if len(text) <= num_tokens
                else text[: tokenizer.end_of_token(text, num_tokens)]
                for text in texts
            ]

        return await self._service.in_worker(run)

    def _check(self, members: Sequence[Any], what: str) -> None:
        if not members:
            raise EmptyRequestError(f"the request holds no {what}; give one or more")
        self._service.admission.check_batch(len(members), what)


def _check_range(served: ServedModel, ids: Sequence[int], at: int) -> None:
    size = served.tokenizer.vocab_size
    wrong = next((each for each in ids if not 0 <= each < size), None)
    if wrong is not None:
        why = f"{wrong} is outside its vocabulary of {size:,}"
        raise InputError(_FOREIGN_IDS.format(at=at, name=served.name, why=why))


def _text(served: ServedModel, given: str | Sequence[int], at: int) -> str:
    if isinstance(given, str):
        return given
    _check_range(served, given, at)
    tokenizer = served.tokenizer
    special = {int(each) for part in tokenizer.single.parts for each in part}
    inner = [each for each in given if each not in special]
    text = tokenizer.decode(inner, skip_special=False)
    if tokenizer.encode([text])[0].tolist() != inner:
        why = "what they spell is tokenised otherwise"
        raise InputError(_FOREIGN_IDS.format(at=at, name=served.name, why=why))
    return text
