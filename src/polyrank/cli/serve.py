"""`polyrank serve`: models over HTTP, in the protocols of many services."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli import options, screen
from polyrank.cli.memory import MEGABYTE
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.server.settings import ModelSource
    from polyrank.server.tracing import Tracing

ENVIRONMENT_PREFIX = "POLYRANK_SERVE"
# what Kubernetes puts into every container for a service by the name of polyrank-serve
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
LIMITS, SAFETY, MODELS = "Limits", "Safety", "Models and computing"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]MODEL",
            help="Folder or Hub id to serve, under a name of its own if one is given. Repeat it "
            "for more models. Left out: the default model.",
            rich_help_panel=MODELS,
            show_default=False,
        ),
    ] = None,
    on_demand: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL",
            help="A model that only the admin route loads. Repeat it for more.",
            rich_help_panel=MODELS,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="0 takes a free one.")] = 3000,
    encoder: Annotated[
        str, typer.Option(help="auto, native, onnx or pytorch.", rich_help_panel=MODELS)
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Left out: all that this process may use.", min=1, rich_help_panel=MODELS
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="cpu, or a device of the pytorch encoder.", rich_help_panel=MODELS),
    ] = "cpu",
    compute_dtype: Annotated[
        str,
        typer.Option(
            "--compute-dtype",
            help="auto, float32, int8 or bfloat16, as elsewhere.",
            rich_help_panel=MODELS,
        ),
    ] = "auto",
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, tag or commit of Hub ids.", rich_help_panel=MODELS, show_default=False
        ),
    ] = None,
    strict_names: Annotated[
        bool,
        typer.Option(
            "--strict-names",
            help="Refuse requests that name a model that is not served. Without it, such a name "
            "means the one model that can do the task, if there is only one.",
            rich_help_panel=MODELS,
        ),
    ] = False,
    auto_truncate: Annotated[
        bool,
        typer.Option(
            help="Cut texts that are too long where a request does not say.",
            rich_help_panel=MODELS,
        ),
    ] = True,
    min_probability: Annotated[
        str | None,
        typer.Option(
            help="Leave documents out of rankings that answer with less probability, where a "
            "request does not say: 0 to 1, precision:0.9 or recall:0.9.",
            rich_help_panel=MODELS,
            show_default=False,
        ),
    ] = None,
    aggregation: Annotated[
        str,
        typer.Option(
            help="How long documents are read where a request does not say: max_p, first_p, "
            "top_k_mean or decayed_sum of their passages, or truncate.",
            rich_help_panel=MODELS,
        ),
    ] = "max_p",
    max_document_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens that are read of a document in passages.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 32_768,
    max_batch_tokens: Annotated[
        int,
        typer.Option(help="Most tokens of a forward pass.", min=1, rich_help_panel=LIMITS),
    ] = 16_384,
    max_concurrent_requests: Annotated[
        int, typer.Option(help="More get 429.", min=1, rich_help_panel=LIMITS)
    ] = 512,
    max_queued_tokens: Annotated[
        int | None,
        typer.Option(
            help="More get 429. Without it, requests that could not be done in their time do.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_client_batch_size: Annotated[
        int, typer.Option(help="Texts or documents of a request.", min=1, rich_help_panel=LIMITS)
    ] = 10_000,
    payload_limit: Annotated[
        int, typer.Option(help="Bytes of a request.", min=1, rich_help_panel=LIMITS)
    ] = 16_000_000,
    request_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds until a request gets 504. The header X-Request-Timeout-Ms asks for less.",
            rich_help_panel=LIMITS,
        ),
    ] = 60.0,
    max_connections: Annotated[
        int,
        typer.Option(
            help="Connections at once; beyond them idle ones make room, or new ones get 503.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 1000,
    write_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds in which a client must read on in its reply.", rich_help_panel=LIMITS
        ),
    ] = 30.0,
    drain: Annotated[
        float,
        typer.Option(
            help="Seconds that requests have to end after SIGTERM.", rich_help_panel=LIMITS
        ),
    ] = 30.0,
    drain_delay: Annotated[
        float,
        typer.Option(
            help="Seconds after SIGTERM in which readiness is gone but connections are taken.",
            rich_help_panel=LIMITS,
        ),
    ] = 0.0,
    cache: Annotated[
        int,
        typer.Option(
            "--cache-mb", help="Megabytes of results to keep; 0: none.", rich_help_panel=LIMITS
        ),
    ] = 0,
    row_cache: Annotated[
        int,
        typer.Option(
            "--row-cache-mb",
            help="Megabytes of documents that each model may keep as it read them, where it reads "
            "them apart from queries: they are not read again for another query. 0: none.",
            min=0,
            rich_help_panel=LIMITS,
        ),
    ] = 0,
    workers: Annotated[
        int,
        typer.Option(
            "--tokenization-workers",
            help="Threads that tokenise beside the encoder.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 2,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys that requests need, one a line. POLYRANK_API_KEYS in the environment adds "
            "more. Without any key, nothing is asked.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys of /admin/models (also POLYRANK_ADMIN_KEYS). Without any key there is no "
            "such route.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain, PEM.", rich_help_panel=SAFETY, show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(help="Its key, PEM.", rich_help_panel=SAFETY, show_default=False),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may call, such as https://example.org. Repeat it for more. "
            "Left out: none.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that requests may call the server by, beside localhost; * allows all. "
            "Repeat it for more. Left out: localhost alone where --host is this machine's, else "
            "all.",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[str, typer.Option(help="json or plain.")] = "plain",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Send spans of requests by OpenTelemetry, as its OTEL_* variables say (extra "
            "otel).",
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Serve models over HTTP to the clients that people already have.

    One port speaks the protocols of text-embeddings-inference, OpenAI, Cohere (v1, v2), Jina,
    Voyage, vLLM, infinity, Pinecone and Weaviate. Point a client there:

        polyrank serve
        polyrank serve -m rerank=BAAI/bge-reranker-v2-m3 -m embed=intfloat/multilingual-e5-small

        cohere.ClientV2(api_key="-", base_url="http://127.0.0.1:3000").rerank(...)
        openai.OpenAI(api_key="-", base_url="http://127.0.0.1:3000/v1").embeddings.create(...)
        curl 127.0.0.1:3000/rerank -d '{"query": "cats", "texts": ["a cat", "a dog"]}'

    Where two protocols share a path, the body tells which is meant; a prefix settles it:
    /tei, /openai, /cohere, /jina, /vllm, /voyage, /infinity, /pinecone, /weaviate.
    Health: /live, /ready (a real forward pass). Metrics: /metrics. Shapes: /openapi.json.

    SIGTERM takes readiness away, lets requests under way end, and exits with 0. Every option can
    also stand in the environment, as POLYRANK_SERVE_PORT and so on.
    """
    from polyrank.server import logs
    from polyrank.server.app import Site
    from polyrank.server.keys import ADMIN_KEYS_VARIABLE, API_KEYS_VARIABLE, read_keys
    from polyrank.server.models import Registry
    from polyrank.server.run import bind, make_server
    from polyrank.server.settings import DEFAULT_MAX_PENDING_BYTES, Limits, ServerSettings

    tracing = _tracing(is_on=trace)
    if log_format not in ("json", "plain") or log_level not in _LEVELS:
        raise ConfigError(
            f"log-format must be json or plain, and log-level one of {', '.join(_LEVELS)}; not "
            f"{log_format!r} and {log_level!r}"
        )
    limits = Limits(
        max_concurrent_requests=max_concurrent_requests,
        max_queued_tokens=max_queued_tokens,
        max_client_batch_size=max_client_batch_size,
        max_document_tokens=max_document_tokens,
        max_payload_bytes=payload_limit,
        max_pending_bytes=max(DEFAULT_MAX_PENDING_BYTES, payload_limit),
        request_timeout_s=request_timeout,
        write_timeout_s=write_timeout,
        max_connections=max_connections,
        drain_s=drain,
        drain_delay_s=drain_delay,
    )
    settings = ServerSettings(
        models=(
            *(_source(given, is_loaded=True) for given in model or [""]),
            *(_source(given, is_loaded=False) for given in on_demand or []),
        ),
        host=host,
        port=port,
        limits=limits,
        auto_truncate=auto_truncate,
        aggregation=aggregation,
        is_strict_about_names=strict_names,
        cors_origins=tuple(cors_allow_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        certificate=tls_cert,
        private_key=tls_key,
        cache_bytes=cache * MEGABYTE,
        row_cache_bytes=row_cache * MEGABYTE,
        num_workers=workers,
        encoder=encoder,
        max_batch_tokens=max_batch_tokens,
        num_threads=threads,
        device=device,
        compute_dtype=compute_dtype,
        revision=revision,
        min_probability=min_probability,
    )
    keys = read_keys(api_key_file, API_KEYS_VARIABLE)
    admin_keys = read_keys(admin_key_file, ADMIN_KEYS_VARIABLE)
    logs.set_up(is_json=log_format == "json", level=log_level)
    listening = bind(settings)
    registry = Registry(settings)
    with screen.loading(", ".join(model or []) or None, quiet=quiet):
        registry.load_all()
    site = Site(settings, registry, keys=keys, admin_keys=admin_keys, tracing=tracing)
    server = make_server(site)
    server.run([listening])
    if not server.started:
        raise ConfigError("the server could not start; its log says why")


def ignore_service_links() -> None:
    """Take an orchestrator's address of a service out of the environment: it is no option."""
    name = f"{ENVIRONMENT_PREFIX}_PORT"
    value = os.environ.get(name, "")
    if _SERVICE_LINK.match(value):
        screen.remark(f"{name}={value} names a service and is ignored; give --port", quiet=False)
        del os.environ[name]


_LEVELS = ("debug", "info", "warning", "error")


def _tracing(*, is_on: bool) -> "Tracing":
    """Return what traces are given to; OpenTelemetry is imported only where it is on."""
    from polyrank._extras import require
    from polyrank.server.tracing import NO_TRACING

    if not is_on:
        return NO_TRACING
    require("otel", purpose="polyrank serve --trace")
    from polyrank.server import otel

    return otel.from_environment()


def _source(given: str, *, is_loaded: bool) -> "ModelSource":
    """Return a model and its name: what stands before "=", or the end of its path or id."""
    from polyrank.checkpoint.hub import default_model_folder
    from polyrank.server.settings import ModelSource

    name, equals, path = given.partition("=")
    if not given:
        return ModelSource(default_model_folder().name, None, is_loaded)
    if not equals or os.path.exists(given):
        is_folder = Path(given).is_dir()
        return ModelSource(Path(given).resolve().name if is_folder else given, given, is_loaded)
    if not path:
        raise ConfigError(f"--model wants NAME=MODEL or MODEL, not {given!r}")
    return ModelSource(name, path, is_loaded)
