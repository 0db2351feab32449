"""A client of `polyrank serve`, blocking and asynchronous, in polyrank's own protocol.

>>> with Client("http://127.0.0.1:3000") as client:
...     for hit in client.rank("How long do cats live?", documents, top_n=5):
...         print(hit.score, hit.document)

Requests that met an overloaded or starting server, or none, are sent again: all of them only
compute, so that sending one twice changes nothing. Both clients build requests and read replies
with the same functions; they differ only in how they wait.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from polyrank import errors
from polyrank._closing import Closing
from polyrank._extras import require
from polyrank.calibration.thresholds import parse_threshold
from polyrank.config import check_choice, check_whole
from polyrank.errors import (
    ConfigError,
    OverloadedError,
    PolyrankError,
    ServingError,
    UnavailableError,
)
from polyrank.tasks.first_stage import check_first_stage_scores
from polyrank.text.inputs import as_list, check_pair, check_text, check_texts, document_text
from polyrank.types import (
    Classification,
    Document,
    FirstStageKind,
    InputType,
    OutputDtype,
    Passage,
)

require("client", purpose="polyrank.client")
import httpx  # noqa: E402  # after the check, which tells how to install them
import tenacity  # noqa: E402

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
LONGEST_WAIT_S = 30.0
LONGEST_TIMEOUT_S = 1e6
_DTYPES = ("float32", "int8", "uint8")


@dataclass(frozen=True, slots=True)
class RankedHit:
    """One document of a ranking.

    Attributes:
        index: Position of the document in the input.
        score: Relevance after the model's activation.
        logit: The raw value before it.
        document: The document as it was given.
        is_truncated: Whether tokens of the query or the document were cut off.
        probability: How probable it is that the document answers; None where the model is not
            calibrated.
        passages: The passages of a document that was longer than the model's window, best first;
            none of one that was read at once.
    """

    index: int
    score: float
    logit: float
    document: Document
    is_truncated: bool
    probability: float | None = None
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class _Call:
    path: str
    body: Mapping[str, Any]


def _rank(
    query: str,
    documents: list[Document],
    top_n: int | None,
    found: Sequence[float] | None,
    first_stage: FirstStageKind | float,
    least: float | str | None,
    model: str | None,
) -> _Call:
    fields: dict[str, Any] = {
        "query": check_text(query, "query"),
        "documents": [document_text(each, f"documents[{i}]") for i, each in enumerate(documents)],
        "top_n": None if top_n is None else check_whole("top_n", top_n),
        "model": model,
    }
    if least is not None:
        parse_threshold(least)
        fields["min_probability"] = least
    if found is not None:
        scores = check_first_stage_scores(found, len(documents)).tolist()
        fields |= {"first_stage_scores": scores, "first_stage": first_stage}
    return _Call("/polyrank/rank", fields)


def _hits(reply: Any, documents: Sequence[Document]) -> list[RankedHit]:
    return [
        RankedHit(
            row["index"],
            row["score"],
            row["logit"],
            documents[row["index"]],
            row["is_truncated"],
            row.get("probability"),  # servers before this one send none
            _passages(row, documents[row["index"]]),
        )
        for row in reply["results"]
    ]


def _passages(row: Mapping[str, Any], document: Document) -> tuple[Passage, ...]:
    sent = row.get("passages") or ()
    text = document_text(document, "document") if sent else ""
    return tuple(
        Passage(
            text[passage["start"] : passage["end"]],
            passage["start"],
            passage["end"],
            passage["score"],
            passage.get("probability"),
        )
        for passage in sent
    )


def _embed(
    texts: str | Iterable[str],
    input_type: InputType | None,
    dimensions: int | None,
    output_dtype: OutputDtype,
    model: str | None,
) -> _Call:
    check_choice("output_dtype", output_dtype, get_args(OutputDtype))
    if input_type is not None:
        check_choice("input_type", input_type, get_args(InputType))
    fields = {
        "texts": check_texts([texts] if isinstance(texts, str) else texts),
        # servers before this one know "document" alone
        "input_type": "document" if input_type == "passage" else input_type,
        "dimensions": None if dimensions is None else check_whole("dimensions", dimensions),
        "output_dtype": output_dtype,
        "model": model,
    }
    return _Call("/polyrank/embed", fields)


def _vectors(reply: Any) -> NDArray[Any]:
    if reply["dtype"] not in _DTYPES:
        raise ServingError(f"the server sent vectors of an unknown type, {reply['dtype']!r:.40}")
    little = np.dtype(reply["dtype"]).newbyteorder("<")
    flat = np.frombuffer(base64.b64decode(reply["data"], validate=True), little)
    return flat.reshape(reply["shape"]).astype(reply["dtype"], copy=False)


def _classify(inputs: Iterable[str | tuple[str, str]], model: str | None) -> _Call:
    members = as_list(inputs, "inputs", "texts or pairs of texts")
    checked = [
        check_text(each, f"inputs[{i}]")
        if isinstance(each, str)
        else check_pair(each, f"inputs[{i}]")
        for i, each in enumerate(members)
    ]
    return _Call("/polyrank/classify", {"inputs": checked, "model": model})


def _classifications(reply: Any) -> list[Classification]:
    labels = reply["labels"]
    found = []
    calibrated = reply.get("calibrated_probabilities") or [None] * len(reply["probabilities"])
    for row, is_truncated, own in zip(
        reply["probabilities"], reply["is_truncated"], calibrated, strict=True
    ):
        best = max(range(len(row)), key=row.__getitem__)
        named = dict(zip(labels, row, strict=True))
        likely = None if own is None else own[best]
        all_likely = None if own is None else dict(zip(labels, own, strict=True))
        found.append(
            Classification(labels[best], row[best], named, is_truncated, likely, all_likely)
        )
    return found


def _read(reply: httpx.Response) -> Any:
    """Return what a reply holds, or raise what the library would have raised."""
    try:
        content = reply.json()
    except ValueError as exc:
        raise ServingError(
            f"{reply.url} answered {reply.status_code} without JSON: is a polyrank server there?"
        ) from exc
    if reply.is_success:
        return content
    told = content.get("error") if isinstance(content, dict) else None
    if not isinstance(told, dict):
        told = {"message": f"{reply.url} answered {reply.status_code}"}
    message = str(told.get("message", ""))
    cls = getattr(errors, str(told.get("class")), None)
    if not (isinstance(cls, type) and issubclass(cls, PolyrankError)):
        cls = ServingError
    if issubclass(cls, OverloadedError):
        raise cls(message, retry_after_s=_retry_after_s(reply))
    raise cls(message)


def _retry_after_s(reply: httpx.Response) -> float:
    asked = reply.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else 1.0


def _unreachable(error: httpx.HTTPError) -> PolyrankError:
    if isinstance(error, httpx.TimeoutException):
        return errors.DeadlineExceededError(f"the server did not answer in time: {error!r}")
    return UnavailableError(f"the server cannot be reached: {error!r}")


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Wait as long as the server asked for, or ever longer, with chance in it."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
    drawn = tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_S)(state)
    return min(max(asked, drawn), LONGEST_WAIT_S)


def _policy(max_tries: int) -> dict[str, Any]:
    check_whole("max_tries", max_tries)
    return {
        "retry": tenacity.retry_if_exception_type((OverloadedError, UnavailableError)),
        "stop": tenacity.stop_after_attempt(max_tries),
        "wait": _wait_s,
        "reraise": True,
    }


def _settings(base_url: object, api_key: object, timeout_s: object) -> dict[str, Any]:
    if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"base_url must begin with http:// or https://, not {base_url!r:.80}")
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise ConfigError(
            f"timeout_s must be a number of seconds from 0 to {LONGEST_TIMEOUT_S:,.0f}, not "
            f"{timeout_s!r:.80}"
        )
    headers = {TIMEOUT_HEADER.encode(): str(max(1, round(timeout_s * 1000))).encode()}
    if api_key is not None:
        if not isinstance(api_key, str) or not api_key.isprintable():
            raise ConfigError("api_key must be a text of printable characters, on one line")
        headers[b"authorization"] = f"Bearer {api_key}".encode()
    # the server ends the request itself; a little more time lets its answer arrive
    timeout = httpx.Timeout(timeout_s + 2, connect=min(timeout_s, 10))
    return {"base_url": base_url.rstrip("/"), "headers": headers, "timeout": timeout}


_READING_ERRORS = (KeyError, TypeError, ValueError, IndexError, binascii.Error)


def _checked(parse: Any, reply: Any, *more: Any) -> Any:
    try:
        return parse(reply, *more)
    except _READING_ERRORS as exc:
        raise ServingError("the server's reply has not the shape that was expected") from exc


class Client(Closing):
    """A blocking client. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_tries: int = 4,
    ) -> None:
        """Connect when first used.

        Args:
            base_url: The server's address.
            api_key: Key, where the server asks for one.
            timeout_s: Seconds for one try.
            max_tries: Tries before an overloaded or unreachable server is given up.
        """
        self._http = httpx.Client(**_settings(base_url, api_key, timeout_s))
        self._retrying = tenacity.Retrying(**_policy(max_tries))

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | None = None,
        first_stage_scores: Sequence[float] | None = None,
        first_stage: FirstStageKind | float = "lexical",
        min_probability: float | str | None = None,
        model: str | None = None,
    ) -> list[RankedHit]:
        """Return documents by relevance to a query, best first.

        Args:
            query: What is looked for.
            documents: Strings, or mappings or objects that hold the text as "text", "content" or
                "page_content". The texts alone are sent.
            top_n: How many to return; None returns all.
            first_stage_scores: What the search that found the documents gave each, to be added,
                standardised, to the logits; None leaves them out.
            first_stage: "lexical" or "dense", for the weight that the model has learnt; or a
                weight, in logits for a standard deviation.
            min_probability: Leave out documents that answer with less probability: 0 to 1, or
                "precision:0.9" or "recall:0.9".
            model: Name of a served model; None takes the first that ranks.

        Returns:
            At most `top_n` results.

        Raises:
            PolyrankError: Of the class that the library would raise, or ServingError.
        """
        members = as_list(documents, "documents", "strings, mappings or objects with a text")
        call = _rank(query, members, top_n, first_stage_scores, first_stage, min_probability, model)
        return _checked(_hits, self._send(call), members)

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        input_type: InputType | None = None,
        dimensions: int | None = None,
        output_dtype: OutputDtype = "float32",
        model: str | None = None,
    ) -> NDArray[Any]:
        """Return one vector per text, shape (num_texts, dimensions).

        Args:
            texts: The texts, or a single one.
            input_type: "query" for questions, "document" or "passage" for what is searched.
            dimensions: Keep only the first values.
            output_dtype: "float32", "int8", "uint8", "binary" or "ubinary".
            model: Name of a served model; None takes the first that embeds.

        Returns:
            Vectors in input order; of a single text its vector alone, shape (dimensions,).

        Raises:
            PolyrankError: Of the class that the library would raise, or ServingError.
        """
        call = _embed(texts, input_type, dimensions, output_dtype, model)
        vectors = _checked(_vectors, self._send(call))
        return vectors[0] if isinstance(texts, str) else vectors

    def classify(
        self, inputs: Iterable[str | tuple[str, str]], *, model: str | None = None
    ) -> list[Classification]:
        """Return the label of each text or pair, with the probabilities of all.

        Args:
            inputs: Texts, or pairs of texts.
            model: Name of a served model; None takes the first that classifies.

        Returns:
            Results in input order.

        Raises:
            PolyrankError: Of the class that the library would raise, or ServingError.
        """
        return _checked(_classifications, self._send(_classify(inputs, model)))

    def _send(self, call: _Call) -> Any:
        return self._retrying.copy()(self._try, call)

    def _try(self, call: _Call) -> Any:
        try:
            return _read(self._http.post(call.path, json=call.body))
        except httpx.HTTPError as exc:
            raise _unreachable(exc) from exc

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncClient:
    """An asynchronous client; close it, or use it in an `async with`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_tries: int = 4,
    ) -> None:
        """Connect when first used; settings are those of `Client`.

        Args:
            base_url: The server's address.
            api_key: Key, where the server asks for one.
            timeout_s: Seconds for one try.
            max_tries: Tries before an overloaded or unreachable server is given up.
        """
        self._http = httpx.AsyncClient(**_settings(base_url, api_key, timeout_s))
        self._retrying = tenacity.AsyncRetrying(**_policy(max_tries))

    async def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | None = None,
        first_stage_scores: Sequence[float] | None = None,
        first_stage: FirstStageKind | float = "lexical",
        min_probability: float | str | None = None,
        model: str | None = None,
    ) -> list[RankedHit]:
        """Return documents by relevance to a query, best first; see `Client.rank`."""
        members = as_list(documents, "documents", "strings, mappings or objects with a text")
        call = _rank(query, members, top_n, first_stage_scores, first_stage, min_probability, model)
        return _checked(_hits, await self._send(call), members)

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        input_type: InputType | None = None,
        dimensions: int | None = None,
        output_dtype: OutputDtype = "float32",
        model: str | None = None,
    ) -> NDArray[Any]:
        """Return one vector per text; see `Client.embed`."""
        call = _embed(texts, input_type, dimensions, output_dtype, model)
        vectors = _checked(_vectors, await self._send(call))
        return vectors[0] if isinstance(texts, str) else vectors

    async def classify(
        self, inputs: Iterable[str | tuple[str, str]], *, model: str | None = None
    ) -> list[Classification]:
        """Return the label of each text or pair; see `Client.classify`."""
        return _checked(_classifications, await self._send(_classify(inputs, model)))

    async def _send(self, call: _Call) -> Any:
        return await self._retrying.copy()(self._try, call)

    async def _try(self, call: _Call) -> Any:
        try:
            return _read(await self._http.post(call.path, json=call.body))
        except httpx.HTTPError as exc:
            raise _unreachable(exc) from exc

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        cls: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
