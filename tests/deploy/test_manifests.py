"""The chart and the examples, read by Helm, by Kubernetes' schemas and by linters.

No cluster runs them. What a cluster would do first is done here: the container's command is run as
the chart gives it, and asked what the probes ask.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
validate = pytest.importorskip("kubernetes_validate", reason="make check-deploy")

from tests.deploy.manifests import (  # noqa: E402  # needs what is asked for above
    CHART,
    DEPLOY,
    EXAMPLES,
    VALUES,
    Manifest,
    find_helm,
    pods,
    read,
    render,
)

OLDEST, NEWEST = "1.27", "1.37"
ROOT = DEPLOY.parent
NAMES = [path.stem for path in VALUES]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return find_helm(tmp_path_factory.mktemp("helm"))


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_helm_finds_nothing_to_say(helm: str, values: Path) -> None:
    command = [helm, "lint", "--strict", CHART, "--values", values]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert "WARNING" not in found.stdout


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_rendered_manifests_keep_to_the_schemas(helm: str, values: Path, version: str) -> None:
    kinds = set()
    for manifest in render(helm, values):
        kinds.add(manifest["kind"])
        if manifest["kind"] not in ("ScaledObject", "ServiceMonitor"):
            validate.validate(manifest, version, strict=True)
    assert {"Deployment", "Service", "Pod"} <= kinds


def test_options_are_rendered_as_they_are_typed(helm: str) -> None:
    full = by_kind(render(helm, CHART / "ci/full.yaml"))
    args = full["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    line = " ".join(args)
    assert "--model rerank=BAAI/bge-reranker-v2-m3 --model embed=intfloat" in line
    assert "--max-client-batch-size 2000000 --min-probability precision:0.9" in line
    assert "--request-timeout 12.5 --strict-names --log-level warning" in line
    assert "--no-auto-truncate" in line
    assert "--trace" not in line
    assert "replicas" not in full["Deployment"]["spec"]
    assert {"HorizontalPodAutoscaler", "ServiceMonitor", "NetworkPolicy"} <= set(full)


def test_custom_resources_keep_to_their_models(helm: str) -> None:
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
    prometheus = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")
    scaled = by_kind(render(helm, CHART / "ci/keda.yaml"))["ScaledObject"]
    monitor = by_kind(render(helm, CHART / "ci/full.yaml"))["ServiceMonitor"]
    for manifest, model in ((scaled, keda.ScaledObject), (monitor, prometheus.ServiceMonitor)):
        known = model.model_validate(manifest)
        dumped = known.model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert dumped["spec"] == manifest["spec"]  # the models drop what they do not know


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("replicaCont=3", "replicaCont"),
        ("autoscaling.kind=cron", "kind"),
        ("containerPort=80", "containerPort"),
        ("autoscaling.targetQueueSeconds=0", "targetQueueSeconds"),
    ],
)
def test_wrong_values_are_refused(helm: str, given: str, complaint: str) -> None:
    command = [helm, "template", "try", CHART, "--set", given]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode != 0
    assert complaint in found.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_pods_of_the_examples_keep_to_the_schemas(path: Path) -> None:
    found = [spec for manifest in read(path) for spec in pods(manifest)]
    assert found
    for spec in found:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": spec}
        validate.validate(pod, NEWEST, strict=True)


def test_every_pod_keeps_to_the_restricted_standard(helm: str) -> None:
    manifests = [each for values in VALUES for each in render(helm, values)]
    manifests += [each for path in EXAMPLES for each in read(path)]
    for spec in [spec for manifest in manifests for spec in pods(manifest)]:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {next(iter(set(each) - {"name"})) for each in spec.get("volumes", [])} <= {
            "emptyDir",
            "persistentVolumeClaim",
        }
        for container in spec["containers"]:
            rights = {**spec.get("securityContext", {}), **container["securityContext"]}
            assert rights["runAsNonRoot"] is True
            assert rights["runAsUser"] > 0
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_pods_get_no_token_but_the_head_that_scales(helm: str) -> None:
    rendered = [spec for each in render(helm, CHART / "ci/full.yaml") for spec in pods(each)]
    assert [spec["automountServiceAccountToken"] for spec in rendered] == [False, False]
    (job,) = read(DEPLOY / "ray/rayjob.yaml")
    assert [spec["automountServiceAccountToken"] for spec in pods(job)] == [False, False]
    (service,) = read(DEPLOY / "ray/rayservice.yaml")
    assert [spec["automountServiceAccountToken"] for spec in pods(service)] == [True, False]


def test_kuberay_serves_what_the_plain_file_serves() -> None:
    (service,) = read(DEPLOY / "ray/rayservice.yaml")
    (plain,) = read(DEPLOY / "ray/serve.yaml")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == plain


def test_the_container_does_what_the_chart_expects(helm: str, tmp_path: Path) -> None:
    port = free_port()
    more = ("--set", f"containerPort={port},shutdown.drainDelaySeconds=1,apiKeys.secretName=keys")
    pod = pods(by_kind(render(helm, CHART / "ci/defaults.yaml", *more))["Deployment"])[0]
    (container,) = pod["containers"]
    variables = {each["name"]: each.get("value", "2") for each in container["env"]}
    variables["POLYRANK_API_KEYS"] = "a-key-from-a-secret"
    python = os.environ.get("POLYRANK_PYTHON", sys.executable)
    arguments = [python, "-m", *container["command"], *container["args"]]
    with subprocess.Popen(arguments, env={**os.environ, **variables}, cwd=tmp_path) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address + container["startupProbe"]["httpGet"]["path"])
            for probe in ("readinessProbe", "livenessProbe"):
                assert status(address + container[probe]["httpGet"]["path"]) == 200
            assert status(f"{address}/v2/health/ready") == 200
            assert status(f"{address}/v2/health/live") == 200
            assert status(f"{address}/info") == 401
            page = urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode()
            assert re.search(r"^polyrank_queue_seconds ", page, re.MULTILINE)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            time.sleep(0.3)
            assert status(address + container["readinessProbe"]["httpGet"]["path"]) == 503
            assert process.wait(pod["terminationGracePeriodSeconds"]) == 0
            assert time.monotonic() - began >= 0.9
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_container_files_pass_hadolint(name: str) -> None:
    run_tool("hadolint", DEPLOY / name)


def test_yaml_files_pass_yamllint() -> None:
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *VALUES, *EXAMPLES]
    run_tool("yamllint", "--strict", "--config-file", DEPLOY / "yamllint.yaml", *files)


def run_tool(name: str, *arguments: object) -> None:
    tool = Path(sys.executable).parent / name
    found = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def by_kind(manifests: list[Manifest]) -> dict[str, Any]:
    return {manifest["kind"]: manifest for manifest in manifests}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url, timeout=11).status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code


def wait_for(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            assert status(url) == 200
            return
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end
            time.sleep(0.1)
