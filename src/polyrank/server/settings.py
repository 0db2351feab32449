"""What a server is told at start. Checks itself; nothing changes afterwards."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from polyrank.calibration.thresholds import parse_threshold
from polyrank.config import PassageConfig, check_choice
from polyrank.errors import ConfigError
from polyrank.types import Aggregation

MAX_NAME_LENGTH = 200
DEFAULT_MAX_PENDING_BYTES = 256_000_000
TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that the server may serve.

    Attributes:
        name: Name that requests call it by.
        model: Folder or Hub id; None is the default model.
        is_loaded_at_start: Whether it is loaded at start, or by the admin route alone.
    """

    name: str
    model: str | None
    is_loaded_at_start: bool = True

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > MAX_NAME_LENGTH or not self.name.isprintable():
            raise ConfigError(
                f"a model's name must have 1 to {MAX_NAME_LENGTH} printable characters, "
                f"not {self.name!r:.220}"
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes before it refuses.

    Attributes:
        max_concurrent_requests: Requests under way at once; more get 429.
        max_queued_tokens: Tokens that may wait; a request that comes to more gets 429, unless
            nothing waits. None sets no limit beyond what can be done within requests' time, and
            2,000,000 until the speed is known.
        max_client_batch_size: Documents or texts of one request.
        max_document_tokens: Tokens of a document that are read of it, where it is read in passages.
        max_payload_bytes: Bytes of one request's body.
        max_pending_bytes: Bytes of all bodies under way together; and of all replies that are
            being sent.
        max_reply_values: Numbers in one reply: vectors of texts, or of tokens.
        max_json_depth: Lists and objects within each other.
        request_timeout_s: Seconds after which a request gets 504, if its header asks for no less.
        body_timeout_s: Seconds in which a request's head must have come, and then its body.
        write_timeout_s: Seconds in which a client must read some of its reply, or is hung up on.
        max_connections: Connections at once. Beyond them one that is idle makes room, or the new
            one gets 503.
        drain_s: Seconds that requests under way have to end after SIGTERM.
        drain_delay_s: Seconds after SIGTERM in which new connections are still taken, so that
            load balancers can see that readiness is gone.

    Raises:
        ConfigError: If a value is out of range.
    """

    max_concurrent_requests: int = 512
    max_queued_tokens: int | None = None
    max_client_batch_size: int = 10_000
    max_document_tokens: int = 32_768
    max_payload_bytes: int = 16_000_000
    max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES
    max_reply_values: int = 20_000_000
    max_json_depth: int = 16
    request_timeout_s: float = 60.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    max_connections: int = 1000
    drain_s: float = 30.0
    drain_delay_s: float = 0.0

    @property
    def max_json_values(self) -> int:
        """Values of one body: each text of a batch may be an object, or some token ids."""
        return max(100 * self.max_client_batch_size, 100_000)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            lowest = 0 if name.startswith("drain") else 1e-3
            if name == "max_queued_tokens" and self.max_queued_tokens is None:
                continue
            if not getattr(self, name) >= lowest:
                raise ConfigError(
                    f"{name} must be {'0 or more' if lowest == 0 else 'above 0'}, "
                    f"not {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything about a server but the models' weights.

    Attributes:
        models: What may be served, the first being the default where tasks allow.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: What is refused.
        auto_truncate: Whether texts that are too long are cut where a request does not say.
        aggregation: How documents to rank are read that are longer than the window, where a
            request does not say: in passages whose logits are joined by "max_p", "first_p",
            "top_k_mean" or "decayed_sum", or cut, by "truncate".
        is_strict_about_names: Whether a request must name a served model exactly.
        cors_origins: Origins of web pages that may call; none by default.
        allowed_hosts: Names that requests may call the server by; "*" allows all. Without any,
            a server that only this machine reaches goes by this machine's names alone.
        certificate: TLS certificate chain, or None for plain HTTP.
        private_key: The certificate's key.
        cache_bytes: Size of the result cache; 0 switches it off.
        row_cache_bytes: Size of the token rows that each model may keep, for texts that come
            again under late interaction; 0 keeps none.
        num_workers: Threads that tokenise and finish, beside the one that encodes.
        encoder: As for `EngineConfig`; so are the next four.
        max_batch_tokens: Most tokens of a batch.
        num_threads: Threads of the encoder.
        device: Where it runs.
        compute_dtype: Type of the products.
        revision: Branch, tag or commit of Hub ids.
        min_probability: Documents that answer with less probability are left out of rankings,
            where a request does not say: 0 to 1, "precision:0.9" or "recall:0.9". Models that
            rank must then be calibrated.

    Raises:
        ConfigError: If a value is out of range or contradicts another.
    """

    models: tuple[ModelSource, ...]
    host: str = "127.0.0.1"
    port: int = 3000
    limits: Limits = field(default_factory=Limits)
    auto_truncate: bool = True
    aggregation: str = "max_p"
    is_strict_about_names: bool = False
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None
    cache_bytes: int = 0
    row_cache_bytes: int = 0
    num_workers: int = 2
    encoder: str = "auto"
    max_batch_tokens: int = 16_384
    num_threads: int | None = None
    device: str = "cpu"
    compute_dtype: str = "auto"
    revision: str | None = None
    min_probability: str | None = None

    def __post_init__(self) -> None:
        if self.min_probability is not None:
            parse_threshold(self.min_probability)
        check_choice("aggregation", self.aggregation, (*get_args(Aggregation), TRUNCATE))
        names = [source.name for source in self.models]
        if len(set(names)) < len(names):
            raise ConfigError(f"two models have the same name: {', '.join(names)}. Use NAME=MODEL.")
        if not any(source.is_loaded_at_start for source in self.models):
            raise ConfigError("at least one model must be loaded at start: name one with --model")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        if (self.certificate is None) != (self.private_key is None):
            raise ConfigError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
        if min(self.cache_bytes, self.row_cache_bytes) < 0 or self.num_workers < 1:
            raise ConfigError(
                "cache_bytes and row_cache_bytes must be 0 or more and num_workers 1 or more, not "
                f"{self.cache_bytes}, {self.row_cache_bytes} and {self.num_workers}"
            )

    @property
    def passages(self) -> PassageConfig | None:
        """How documents longer than the window are read; None cuts them."""
        if self.aggregation == TRUNCATE:
            return None
        most = self.limits.max_document_tokens
        return PassageConfig(self.aggregation, max_tokens_per_document=most)  # type: ignore[arg-type] # checked above
