"""`polyrank serve`: models over HTTP, in the protocols of many services."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import options, screen
from polyrank.cli.fields import set_option, set_values, settings_of, takes
from polyrank.errors import ConfigError
from polyrank.server.settings import (
    DEFAULT_MAX_PENDING_BYTES,
    MODELS,
    ON_RAY,
    SAFETY,
    Limits,
    ModelSource,
    ReplicaSettings,
    ServerSettings,
)

if TYPE_CHECKING:
    from polyrank.server.keys import Keys
    from polyrank.server.tracing import Tracing

ENVIRONMENT_PREFIX = "POLYRANK_SERVE"
# what Kubernetes puts into every container for a service by the name of polyrank-serve
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
LEVELS = ("debug", "info", "warning", "error")
_KNOWN = {
    cls: [each for each in settings_of(cls).values() if each.metadata.get("is_option")]
    for cls in (ServerSettings, Limits, ReplicaSettings)
}
OPTIONS = [set_option(each) for known in _KNOWN.values() for each in known]

Models = Annotated[
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
]
OnDemand = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]MODEL",
        help="A model that only the admin route loads. Repeat it for more.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="Keys that requests need, one a line. POLYRANK_API_KEYS in the environment adds "
        "more. Without any key, nothing is asked.",
        rich_help_panel=SAFETY,
        show_default=False,
    ),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="Keys of /admin/models (also POLYRANK_ADMIN_KEYS). Without any key there is no "
        "such route.",
        rich_help_panel=SAFETY,
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Serve on a Ray cluster (extra ray-serve): auto or HOST:PORT; local starts one here.",
        rich_help_panel=ON_RAY,
        show_default=False,
    ),
]
LogFormat = Annotated[str, typer.Option(help="json or plain.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="Send spans of requests by OpenTelemetry, as its OTEL_* variables say (extra otel).",
    ),
]


@takes(*OPTIONS)
def serve(
    model: Models = None,
    on_demand: OnDemand = None,
    api_key_file: ApiKeyFile = None,
    admin_key_file: AdminKeyFile = None,
    log_format: LogFormat = "plain",
    log_level: LogLevel = "info",
    trace: Trace = False,
    ray: Ray = None,
    quiet: options.Quiet = False,
    **typed: Any,
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

    On a Ray cluster, with one to eight replicas by the tokens that wait:

        polyrank serve --ray auto --max-replicas 8 --threads 4 --host 0.0.0.0

    SIGTERM takes readiness away, lets requests under way end, and exits with 0. Every option can
    also stand in the environment, as POLYRANK_SERVE_PORT and so on.
    """
    from polyrank.server import logs
    from polyrank.server.keys import ADMIN_KEYS_VARIABLE, API_KEYS_VARIABLE, read_keys

    if log_format not in ("json", "plain") or log_level not in LEVELS:
        raise ConfigError(
            f"log-format must be json or plain, and log-level one of {', '.join(LEVELS)}; not "
            f"{log_format!r} and {log_level!r}"
        )
    settings = _settings(model or [""], on_demand or [], typed)
    replicas = ReplicaSettings(**set_values(_KNOWN[ReplicaSettings], typed))
    keys = read_keys(api_key_file, API_KEYS_VARIABLE)
    admin_keys = read_keys(admin_key_file, ADMIN_KEYS_VARIABLE)
    logs.set_up(is_json=log_format == "json", level=log_level)
    if ray is not None:
        if admin_keys or on_demand:
            raise ConfigError(
                "an admin route would reach one replica of many: leave out --admin-key-file, "
                f"{ADMIN_KEYS_VARIABLE} and --on-demand. To replace a model on Ray, deploy anew."
            )
        _serve_on_ray(
            settings,
            replicas,
            ray,
            keys=keys,
            is_traced=trace,
            is_json_logged=log_format == "json",
            log_level=log_level,
        )
        return
    if replicas != ReplicaSettings():
        raise ConfigError("replicas stand on a Ray cluster: give --ray, too.")
    with_models = ", ".join(model or []) or None
    _serve_here(settings, with_models, keys=keys, admin_keys=admin_keys, trace=trace, quiet=quiet)


def _serve_here(
    settings: ServerSettings,
    named: str | None,
    *,
    keys: "Keys",
    admin_keys: "Keys",
    trace: bool,
    quiet: bool,
) -> None:
    """Serve in this process until a signal comes."""
    from polyrank.server.app import Site
    from polyrank.server.models import Registry
    from polyrank.server.run import bind, make_server

    tracing = _tracing(is_on=trace)
    listening = bind(settings)
    registry = Registry(settings)
    with screen.loading(named, quiet=quiet):
        registry.load_all()
    site = Site(settings, registry, keys=keys, admin_keys=admin_keys, tracing=tracing)
    server = make_server(site)
    server.run([listening])
    if not server.started:
        raise ConfigError("the server could not start; its log says why")


def _serve_on_ray(
    settings: ServerSettings,
    replicas: ReplicaSettings,
    address: str,
    *,
    keys: "Keys",
    is_traced: bool,
    is_json_logged: bool,
    log_level: str,
) -> None:
    """Serve on a cluster until a signal comes."""
    from polyrank._extras import require

    require("ray-serve", purpose="polyrank serve --ray")
    from polyrank.server.ray.replica import ReplicaPlan
    from polyrank.server.ray.run import serve_on_ray

    plan = ReplicaPlan(settings, keys, is_traced, is_json_logged, log_level)
    serve_on_ray(plan, replicas, address)


def _settings(
    models: Sequence[str], on_demand: Sequence[str], typed: Mapping[str, Any]
) -> ServerSettings:
    limits = set_values(_KNOWN[Limits], typed)
    pending = max(DEFAULT_MAX_PENDING_BYTES, limits["max_payload_bytes"])
    return ServerSettings(
        models=(
            *(_source(model, is_loaded=True) for model in models),
            *(_source(model, is_loaded=False) for model in on_demand),
        ),
        limits=Limits(**limits, max_pending_bytes=pending),
        **set_values(_KNOWN[ServerSettings], typed),
    )


def ignore_service_links() -> None:
    """Take an orchestrator's address of a service out of the environment: it is no option."""
    name = f"{ENVIRONMENT_PREFIX}_PORT"
    value = os.environ.get(name, "")
    if _SERVICE_LINK.match(value):
        screen.remark(f"{name}={value} names a service and is ignored; give --port", quiet=False)
        del os.environ[name]


def _tracing(*, is_on: bool) -> "Tracing":
    """Return what traces are given to; OpenTelemetry is imported only where it is on."""
    from polyrank._extras import require
    from polyrank.server.tracing import NO_TRACING

    if not is_on:
        return NO_TRACING
    require("otel", purpose="polyrank serve --trace")
    from polyrank.server import otel

    return otel.from_environment()


def _source(given: str, *, is_loaded: bool) -> ModelSource:
    """Return a model and its name: what stands before "=", or the end of its path or id."""
    from polyrank.checkpoint.hub import default_model_folder

    name, equals, path = given.partition("=")
    if not given:
        return ModelSource(default_model_folder().name, None, is_loaded)
    if not equals or os.path.exists(given):
        is_folder = Path(given).is_dir()
        return ModelSource(Path(given).resolve().name if is_folder else given, given, is_loaded)
    if not path:
        raise ConfigError(f"--model wants NAME=MODEL or MODEL, not {given!r}")
    return ModelSource(name, path, is_loaded)
