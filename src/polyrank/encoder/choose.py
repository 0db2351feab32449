"""Which encoder runs a checkpoint: the one named, or the best one installed.

Knows the backends by a table and imports one only when it is chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass

from polyrank._extras import is_installed, require
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.base import Encoder
from polyrank.errors import ConfigError

AUTO = "auto"
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """Whether a backend can be used here, for `polyrank doctor`.

    Attributes:
        name: Name users choose it by.
        is_available: Whether its libraries are installed.
        reason: What is installed or missing, in words.
        extra: Extra that brings its libraries, as in ``pip install 'polyrank[extra]'``.
    """

    name: str
    is_available: bool
    reason: str
    extra: str


@dataclass(frozen=True, slots=True)
class _Backend:
    name: str
    extra: str
    modules: tuple[str, ...]
    is_cpu_only: bool
    make: Callable[[Checkpoint, EngineConfig], Encoder]

    def runs_on(self, device: str) -> bool:
        return device == CPU or not self.is_cpu_only


def _make_native(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.native import NativeEncoder

    return NativeEncoder(checkpoint, config)


def _make_onnx(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.onnx import OnnxEncoder

    return OnnxEncoder(checkpoint, config)


def _make_pytorch(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.pytorch import PytorchEncoder

    return PytorchEncoder(checkpoint, config)


# In order of preference: "auto" takes the first one that is installed and runs on the device.
_BACKENDS = (
    _Backend("onnx", "onnx", ("onnx", "onnxruntime"), True, _make_onnx),
    _Backend("pytorch", "torch", ("torch",), False, _make_pytorch),
)


def choose_encoder(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    """Load a checkpoint into the encoder that the configuration names.

    Args:
        checkpoint: The opened checkpoint.
        config: Encoder name, device and threads. "auto" takes the first installed one of onnx
            and pytorch on the CPU, and pytorch on any other device.

    Returns:
        The loaded encoder; the caller closes it.

    Raises:
        ConfigError: If the name is unknown, or that encoder does not run on the device.
        MissingExtraError: If its libraries are not installed; for "auto", if no encoder's are.
        EncoderError: If the encoder cannot load the checkpoint.
    """
    backend = _pick(config)
    require(backend.extra, *backend.modules, purpose=f"The {backend.name} encoder")
    return backend.make(checkpoint, config)


def _pick(config: EngineConfig) -> _Backend:
    able = [backend for backend in _BACKENDS if backend.runs_on(config.device)]
    if config.encoder == AUTO:
        # where none is installed, the first one's extra is the one to name
        return next((backend for backend in able if is_installed(*backend.modules)), able[0])
    for backend in _BACKENDS:
        if backend.name == config.encoder:
            if backend not in able:
                raise ConfigError(
                    f"the {backend.name} encoder runs on the CPU only, not on {config.device!r}. "
                    f"Choose encoder={able[0].name!r}, or device={CPU!r}."
                )
            return backend
    names = ", ".join((AUTO, *(backend.name for backend in _BACKENDS)))
    raise ConfigError(f"encoder must be one of {names}, not {config.encoder!r}")


def available_encoders() -> list[EncoderStatus]:
    """Return what can be said of every backend without importing its libraries.

    Returns:
        One status a backend, in the order in which "auto" prefers them.
    """
    return [_status(backend) for backend in _BACKENDS]


def _status(backend: _Backend) -> EncoderStatus:
    missing = [module for module in backend.modules if not is_installed(module)]
    if missing:
        reason = f"{', '.join(missing)} not installed: pip install 'polyrank[{backend.extra}]'"
    else:
        reason = f"{', '.join(backend.modules)} installed"
    return EncoderStatus(backend.name, not missing, reason, backend.extra)
