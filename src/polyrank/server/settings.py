"""What a server is told at start. Checks itself; nothing changes afterwards.

`polyrank serve` makes its options of the fields: what the docstrings say of them is the options'
help, and `option` says what an option has beside that.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from polyrank.calibration.thresholds import parse_threshold
from polyrank.config import PassageConfig, check_choice
from polyrank.errors import ConfigError
from polyrank.types import Aggregation

MAX_NAME_LENGTH = 200
DEFAULT_MAX_PENDING_BYTES = 256_000_000
TRUNCATE = "truncate"
IN_MEGABYTES = {"scale": 1_000_000, "unit": "megabytes"}
LIMITS, SAFETY, MODELS, ON_RAY = "Limits", "Safety", "Models and computing", "On Ray"


def option(panel: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the metadata of a field that `polyrank serve` has an option for.

    Args:
        panel: Heading of the option in the help.
        **more: "name" (in the environment and, with hyphens, on the command line, if not the
            field's), "flags" (if not that), "least", "scale" (what one typed stands for) and
            "unit" (what that is called).

    Returns:
        The metadata.
    """
    return {"is_option": True, "panel": panel, **more}


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
            nothing waits. Without it, requests that could not be done in their time get 429, and
            those beyond 2,000,000 until the speed is known.
        max_client_batch_size: Texts or documents of a request.
        max_document_tokens: Tokens that are read of a document in passages.
        max_payload_bytes: Bytes of a request's body.
        max_pending_bytes: Bytes of all bodies under way together; and of all replies that are
            being sent.
        max_reply_values: Numbers in one reply: vectors of texts, or of tokens.
        max_json_depth: Lists and objects within each other.
        request_timeout_s: Seconds until a request gets 504. The header X-Request-Timeout-Ms asks
            for less.
        body_timeout_s: Seconds in which a request's head must have come, and then its body.
        write_timeout_s: Seconds in which a client must read on in its reply, or is hung up on.
        max_connections: Connections at once; beyond them idle ones make room, or new ones get
            503.
        drain_s: Seconds that requests under way have to end after SIGTERM.
        drain_delay_s: Seconds after SIGTERM in which readiness is gone but connections are taken,
            so that load balancers can see it.

    Raises:
        ConfigError: If a value is out of range.
    """

    max_concurrent_requests: int = field(default=512, metadata=option(LIMITS, least=1))
    max_queued_tokens: int | None = field(default=None, metadata=option(LIMITS, least=1))
    max_client_batch_size: int = field(default=10_000, metadata=option(LIMITS, least=1))
    max_document_tokens: int = field(default=32_768, metadata=option(LIMITS, least=1))
    max_payload_bytes: int = field(
        default=16_000_000, metadata=option(LIMITS, least=1, name="payload_limit")
    )
    max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES
    max_reply_values: int = 20_000_000
    max_json_depth: int = 16
    request_timeout_s: float = field(default=60.0, metadata=option(LIMITS, name="request_timeout"))
    body_timeout_s: float = 30.0
    write_timeout_s: float = field(default=30.0, metadata=option(LIMITS, name="write_timeout"))
    max_connections: int = field(default=1000, metadata=option(LIMITS, least=1))
    drain_s: float = field(default=30.0, metadata=option(LIMITS, name="drain"))
    drain_delay_s: float = field(default=0.0, metadata=option(LIMITS, name="drain_delay"))

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
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on; 0 takes a free one.
        limits: What is refused.
        auto_truncate: Cut texts that are too long where a request does not say.
        aggregation: How documents to rank are read that are longer than the window, where a
            request does not say: max_p, first_p, top_k_mean, decayed_sum or joint_maxsim of their
            passages, or truncate.
        is_strict_about_names: Refuse requests that name a model that is not served. Without it,
            such a name means the one model that can do the task, if there is only one.
        cors_origins: Origin whose pages may call, such as https://example.org. Repeat it for
            more. Left out: none.
        allowed_hosts: Name that requests may call the server by, beside localhost; * allows all.
            Repeat it for more. Left out: localhost alone where the host is this machine's, else
            all.
        certificate: TLS certificate chain, PEM. Left out: plain HTTP.
        private_key: Its key, PEM.
        cache_bytes: Size of the cache of results; 0: none.
        row_cache_bytes: Size of the documents that each model may keep as it read them, where it
            reads them apart from queries: they are not read again for another query. 0: none.
        num_workers: Threads that tokenise and finish, beside the one that encodes.
        encoder: auto, native, onnx or pytorch.
        max_batch_tokens: Most tokens of a forward pass.
        num_threads: Threads of the encoder. Left out: all that this process may use.
        device: cpu, or a device of the pytorch encoder.
        compute_dtype: Type of the products: auto, float32, int8 or bfloat16, as elsewhere.
        revision: Branch, tag or commit of Hub ids.
        min_probability: Leave documents out of rankings that answer with less probability, where
            a request does not say: 0 to 1, precision:0.9 or recall:0.9. Models that rank must
            then be calibrated.

    Raises:
        ConfigError: If a value is out of range or contradicts another.
    """

    models: tuple[ModelSource, ...]
    host: str = field(default="127.0.0.1", metadata=option())
    port: int = field(default=3000, metadata=option(flags=("--port", "-p")))
    limits: Limits = field(default_factory=Limits)
    auto_truncate: bool = field(default=True, metadata=option(MODELS))
    aggregation: str = field(default="max_p", metadata=option(MODELS))
    is_strict_about_names: bool = field(default=False, metadata=option(MODELS, name="strict_names"))
    cors_origins: tuple[str, ...] = field(
        default=(), metadata=option(SAFETY, name="cors_allow_origin")
    )
    allowed_hosts: tuple[str, ...] = field(default=(), metadata=option(SAFETY, name="allowed_host"))
    certificate: Path | None = field(default=None, metadata=option(SAFETY, name="tls_cert"))
    private_key: Path | None = field(default=None, metadata=option(SAFETY, name="tls_key"))
    cache_bytes: int = field(
        default=0, metadata=option(LIMITS, name="cache", flags=("--cache-mb",), **IN_MEGABYTES)
    )
    row_cache_bytes: int = field(
        default=0,
        metadata=option(
            LIMITS, name="row_cache", flags=("--row-cache-mb",), least=0, **IN_MEGABYTES
        ),
    )
    num_workers: int = field(
        default=2,
        metadata=option(LIMITS, name="workers", flags=("--tokenization-workers",), least=1),
    )
    encoder: str = field(default="auto", metadata=option(MODELS))
    max_batch_tokens: int = field(default=16_384, metadata=option(LIMITS, least=1))
    num_threads: int | None = field(default=None, metadata=option(MODELS, name="threads", least=1))
    device: str = field(default="cpu", metadata=option(MODELS))
    compute_dtype: str = field(default="auto", metadata=option(MODELS))
    revision: str | None = field(default=None, metadata=option(MODELS))
    min_probability: str | None = field(default=None, metadata=option(MODELS))

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


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """How many replicas of a server there are on a Ray cluster.

    Attributes:
        min_replicas: Fewest replicas.
        max_replicas: Most replicas; they are added and taken away by the tokens that wait.
        queued_tokens: Tokens that may wait for each replica, on average over the last seconds,
            before another one starts.
        upscale_delay_s: Seconds that too much must wait before replicas are added.
        downscale_delay_s: Seconds that fewer must suffice before replicas are taken away.
        look_back_s: Seconds that waiting tokens are averaged over.

    Raises:
        ConfigError: If a value is out of range or contradicts another.
    """

    min_replicas: int = field(default=1, metadata=option(ON_RAY, least=1))
    max_replicas: int = field(default=1, metadata=option(ON_RAY, least=1))
    queued_tokens: int = field(default=16_384, metadata=option(ON_RAY, least=1))
    upscale_delay_s: float = field(default=10.0, metadata=option(ON_RAY, name="upscale_delay"))
    downscale_delay_s: float = field(default=300.0, metadata=option(ON_RAY, name="downscale_delay"))
    look_back_s: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigError(
                "replicas must be 1 or more, and no fewer at most than at least; not "
                f"min_replicas={self.min_replicas} and max_replicas={self.max_replicas}"
            )
        if self.queued_tokens < 1 or self.look_back_s <= 0:
            raise ConfigError(
                "queued_tokens must be 1 or more and look_back_s above 0, not "
                f"{self.queued_tokens} and {self.look_back_s}"
            )
        if min(self.upscale_delay_s, self.downscale_delay_s) < 0:
            raise ConfigError(
                "upscale_delay_s and downscale_delay_s must be 0 or more, not "
                f"{self.upscale_delay_s} and {self.downscale_delay_s}"
            )
