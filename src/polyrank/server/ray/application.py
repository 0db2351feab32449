"""What Ray Serve is asked to run: replicas of the server, and the arguments of a config file."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from polyrank.checkpoint.hub import default_model_folder
from polyrank.errors import ConfigError
from polyrank.server.keys import API_KEYS_VARIABLE, read_keys
from polyrank.server.ray.policy import QueuedTokensPolicy
from polyrank.server.ray.replica import Replica, ReplicaPlan
from polyrank.server.settings import ReplicaSettings, ServerSettings

NAME = "polyrank"
ALL_HOSTS = "0.0.0.0"  # noqa: S104 - Ray's proxy listens, where it is told to
HEALTH_PERIOD_S = 10
HEALTH_TIMEOUT_S = 30
SPARE_REQUESTS = 64  # above what a replica takes, which it refuses in the client's own protocol
SURGE_PERCENT = 25  # replicas that start beside the old ones when a model is replaced; at least one
DRAIN_SPARE_S = 10.0
SAMPLES = 5  # of what replicas report, in the seconds that are looked back on


class RayArguments(BaseModel):
    """The arguments of ``polyrank.server.ray:app``, as they stand under ``args`` in a config file.

    Attributes:
        models: Folder or Hub id by the name that requests call it by; none is the default model.
        server: Fields of `ServerSettings`, among them "limits"; host, port and TLS are Ray's.
        replicas: How many replicas there are.
        api_key_file: Keys that requests need, one a line, on the node that builds the
            application. POLYRANK_API_KEYS in its environment adds more.
        trace: Whether replicas send spans by OpenTelemetry, as OTEL_* variables say.
        json_logs: Whether lines of the log are JSON.
        log_level: "debug", "info", "warning" or "error".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, str] = Field(default_factory=dict)
    server: dict[str, Any] = Field(default_factory=dict)
    replicas: ReplicaSettings = Field(default_factory=ReplicaSettings)
    api_key_file: Path | None = None
    trace: bool = False
    json_logs: bool = True
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")


def app(arguments: RayArguments) -> serve.Application:
    """Return the application of a config file; Ray Serve calls this.

    Args:
        arguments: What stands under ``args``.

    Returns:
        The application, to be deployed under the route "/".

    Raises:
        ConfigError: If a value is out of range or unknown.
    """
    plan = ReplicaPlan(
        _server_settings(arguments),
        read_keys(arguments.api_key_file, API_KEYS_VARIABLE),
        is_traced=arguments.trace,
        is_json_logged=arguments.json_logs,
        log_level=arguments.log_level,
    )
    return build(plan, arguments.replicas)


def build(plan: ReplicaPlan, replicas: ReplicaSettings) -> serve.Application:
    """Return an application of so many replicas.

    Args:
        plan: What each of them is made of.
        replicas: How many there are.

    Returns:
        The application.
    """
    num_cpus = plan.settings.num_threads or 1
    settings = replace(plan.settings, num_threads=num_cpus)
    limits = settings.limits
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options={"num_cpus": num_cpus},
        max_ongoing_requests=limits.max_concurrent_requests + SPARE_REQUESTS,
        logging_config={"enable_access_log": False},  # the server's own log has a line a request
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        # what a replica has begun when it is taken away ends by its own clock
        graceful_shutdown_timeout_s=limits.request_timeout_s + DRAIN_SPARE_S,
        # old replicas answer until new ones have run a batch of every model
        max_surge_percent=SURGE_PERCENT,
        **_number_of(replicas),
    )
    return deployment.bind(replace(plan, settings=settings))


def _number_of(replicas: ReplicaSettings) -> dict[str, Any]:
    """Return the options of a deployment that say how many replicas it has."""
    if replicas.min_replicas == replicas.max_replicas:
        return {"num_replicas": replicas.min_replicas}
    policy = AutoscalingPolicy(
        policy_function=QueuedTokensPolicy,
        policy_kwargs={"queued_tokens": replicas.queued_tokens},
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            upscale_delay_s=replicas.upscale_delay_s,
            downscale_delay_s=replicas.downscale_delay_s,
            look_back_period_s=replicas.look_back_s,
            metrics_interval_s=replicas.look_back_s / SAMPLES,
            policy=policy,
        )
    }


def _server_settings(arguments: RayArguments) -> ServerSettings:
    known = {field.name for field in fields(ServerSettings)} - {"models", "host", "port"}
    known -= {"certificate", "private_key"}
    unknown = arguments.server.keys() - known
    if unknown:
        raise ConfigError(
            f"server has no setting {', '.join(sorted(unknown))} in an application of Ray Serve; "
            f"it has {', '.join(sorted(known))}"
        )
    models: dict[str, str | None] = dict(arguments.models)
    sources = [
        {"name": name, "model": model}
        for name, model in (models or {default_model_folder().name: None}).items()
    ]
    given = {"host": ALL_HOSTS, "models": sources, **arguments.server}
    return TypeAdapter(ServerSettings).validate_python(given)
