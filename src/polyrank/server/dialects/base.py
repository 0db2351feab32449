"""What a dialect is made of: operations with a schema, and its words for errors."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from polyrank.calibration.thresholds import Threshold
from polyrank.server.context import RequestContext
from polyrank.server.cutting import TruncationRequest
from polyrank.server.failures import STATUSES, Failure, Kind
from polyrank.server.models import Registry
from polyrank.server.service import (
    Classified,
    Embedded,
    FirstStage,
    ScoredPairs,
    Service,
    Vectors,
)
from polyrank.server.settings import ServerSettings
from polyrank.server.tokens import TokenTools
from polyrank.text.tokenizer import Token


def _stop_at_first_fault(part: Any) -> None:
    if isinstance(part, dict):
        if part.get("type") == "list":
            part["fail_fast"] = True
        for each in part.values():
            _stop_at_first_fault(each)
    elif isinstance(part, list | tuple):
        for each in part:
            _stop_at_first_fault(each)


class Body(BaseModel):
    """A request's body. Fields that a dialect does not know are ignored, as its servers do."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that pydantic makes, with lists that stop at their first fault.

        Else a million numbers where texts are due are a million errors, of which five are told.
        """
        schema = handler(source)
        _stop_at_first_fault(schema)
        return schema


AnyBody = TypeVar("AnyBody", bound=Body)
P = ParamSpec("P")
T = TypeVar("T")
SMALL_COUNT = 256  # made within the event loop: a millisecond, quicker than the way to a thread


@dataclass(frozen=True, slots=True)
class Dialect:
    """A protocol's name and its words for errors.

    Attributes:
        name: As in path prefixes and metrics.
        encode_error: The body that tells a failure, given its HTTP status.
        statuses: Statuses that differ from the common table.
    """

    name: str
    encode_error: Callable[[Failure, int], Any]
    statuses: Mapping[Kind, int] = field(default_factory=dict)

    def status(self, failure: Failure) -> int:
        """Return the HTTP status of a failure."""
        return self.statuses.get(failure.kind, STATUSES[failure.kind])


class Api:
    """What operations may ask for: the service, bound to one request."""

    def __init__(self, service: Service, context: RequestContext, settings: ServerSettings) -> None:
        self.service = service
        self.context = context
        self.settings = settings
        self.tokens = TokenTools(service)

    async def aside(self, count: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return a call's result, computed in a worker thread where it works on many."""
        if count <= SMALL_COUNT:
            return call(*args, **kwargs)
        return await self.service.in_worker(call, *args, **kwargs)

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        model: str | None = None,
        cut: TruncationRequest | None = None,
        first_stage: FirstStage | None = None,
        min_probability: Threshold | None = None,
    ) -> ScoredPairs:
        """Return the relevance of (query, document) pairs, in input order."""
        return await self.service.score(
            self.context,
            pairs,
            model=model,
            cut=cut or TruncationRequest(),
            first_stage=first_stage,
            min_probability=min_probability,
        )

    def least(self, asked: Threshold | None) -> Threshold | None:
        """Return the threshold of a ranking: the request's, else the server's."""
        return self.settings.min_probability if asked is None else asked

    async def classify(
        self,
        items: Sequence[str | tuple[str, str]],
        *,
        model: str | None = None,
        cut: TruncationRequest | None = None,
    ) -> Classified:
        """Return the labels of texts or pairs, in input order."""
        return await self.service.classify(
            self.context, items, model=model, cut=cut or TruncationRequest()
        )

    async def embed(
        self,
        texts: Sequence[str],
        wanted: Vectors,
        *,
        model: str | None = None,
        cut: TruncationRequest | None = None,
    ) -> Embedded:
        """Return vectors of texts, in input order."""
        return await self.service.embed(
            self.context, texts, model=model, cut=cut or TruncationRequest(), wanted=wanted
        )

    async def embed_chunks(
        self, chunks: Sequence[str], wanted: Vectors, *, model: str | None = None
    ) -> Embedded:
        """Return vectors of one text's chunks, each read with those around it."""
        return await self.service.embed_chunks(self.context, chunks, model=model, wanted=wanted)

    async def embed_tokens(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        cut: TruncationRequest | None = None,
        prompt_name: str | None = None,
    ) -> Embedded:
        """Return one row for each token of each text, in input order."""
        return await self.service.embed_tokens(
            self.context,
            texts,
            model=model,
            cut=cut or TruncationRequest(),
            prompt_name=prompt_name,
        )

    async def read_texts(self, inputs: Any, *, model: str | None = None) -> list[str]:
        """Return texts to embed, given as texts or as token ids; see `TokenTools.texts_of`."""
        return await self.tokens.texts_of(inputs, self.service.registry.find(model, "embed"))

    async def tokenize(
        self, texts: Sequence[str], *, model: str | None = None, is_special: bool = True
    ) -> list[list[Token]]:
        """Return the tokens of texts, with or without special ones."""
        return await self.tokens.tokenize(texts, model, is_special=is_special)

    async def decode(
        self, ids: Sequence[Sequence[int]], *, model: str | None = None, skip_special: bool = True
    ) -> list[str]:
        """Return the texts of token ids."""
        return await self.tokens.decode(ids, model, skip_special=skip_special)

    async def shorten(
        self, texts: Sequence[str], num_tokens: int | None, *, model: str | None = None
    ) -> list[str]:
        """Return texts to rank, cut to some tokens: a limit that a request sets itself."""
        served = self.service.registry.find(model, "rerank")
        return await self.tokens.shorten(texts, num_tokens, served)


Handler = Callable[[Any, Api], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a dialect does at a path.

    Attributes:
        dialect: Whose shapes it speaks.
        summary: What it does, for the OpenAPI page.
        handle: From a body and the service to a reply: anything JSON can hold, NumPy arrays too.
        schema: Shape of the body; None where there is none.
    """

    dialect: Dialect
    summary: str
    handle: Handler
    schema: type[Body] | None = None


Choose = Callable[[Mapping[str, Any], Mapping[str, str], Registry], Operation]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what is done there.

    Attributes:
        method: GET or POST.
        path: The path.
        operations: What can be meant by a request; the first gives errors their shape before
            the body is read.
        choose: Which of them is meant, by body and headers; None where there is only one.
        is_public: Whether it needs no key.
    """

    method: str
    path: str
    operations: tuple[Operation, ...]
    choose: Choose | None = None
    is_public: bool = False
