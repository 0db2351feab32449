"""Which encoder runs a checkpoint: the one named, or the best one installed.

Knows the backends by a table and imports one only when it is chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from polyrank._extras import install_command, is_installed, require
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import BodySpec
from polyrank.config import EngineConfig
from polyrank.encoder.base import Encoder
from polyrank.encoder.checks import native_misfit
from polyrank.encoder.compute_dtype import choose_compute_dtype, float32_reason
from polyrank.encoder.paths import running_path
from polyrank.errors import CapabilityError, ConfigError, MissingExtraError

AUTO = "auto"
CPU = "cpu"
NATIVE = "native"


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
    has_narrow: bool  # int8 and bfloat16 products; others run int8 folders on dequantised weights
    make: Callable[[Checkpoint, EngineConfig], Encoder]
    misfit: Callable[[BodySpec], str | None] = lambda body: None

    def objection(self, config: EngineConfig) -> str | None:
        """Return why this backend cannot do what is asked, or None where it can."""
        if self.is_cpu_only and config.device != CPU:
            return f"runs on the CPU only, not on {config.device!r}"
        if config.compute_dtype in ("int8", "bfloat16") and not self.has_narrow:
            return f"has no {config.compute_dtype} products"
        return None


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What would run a checkpoint, for `polyrank info`.

    Attributes:
        encoder: Name of the encoder.
        encoder_reason: Why that encoder, in words.
        compute_dtype: Type of the products in linear layers.
        reason: Why that compute_dtype, in words.
        path: Kernels of the native encoder that run here; empty for another encoder.
    """

    encoder: str
    encoder_reason: str
    compute_dtype: str
    reason: str
    path: str = ""


def _make_native(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.native import NativeEncoder

    return NativeEncoder(checkpoint, config)


def _make_onnx(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.onnx import OnnxEncoder

    return OnnxEncoder(checkpoint, config)


def _make_pytorch(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    from polyrank.encoder.pytorch import PytorchEncoder

    return PytorchEncoder(checkpoint, config)


# In order of preference: "auto" takes the first one that is installed and can do what is asked.
_BACKENDS = (
    _Backend(NATIVE, "onnx", ("polyrank._native",), True, True, _make_native, native_misfit),
    _Backend("onnx", "onnx", ("onnx", "onnxruntime"), True, False, _make_onnx),
    _Backend("pytorch", "torch", ("torch",), False, False, _make_pytorch),
)


def choose_encoder(checkpoint: Checkpoint, config: EngineConfig) -> Encoder:
    """Load a checkpoint into the encoder that the configuration names.

    Args:
        checkpoint: The opened checkpoint.
        config: Encoder name, device and threads. "auto" takes the first installed one of
            native, onnx and pytorch on the CPU, and pytorch on any other device.

    Returns:
        The loaded encoder; the caller closes it.

    Raises:
        ConfigError: If the name is unknown, or that encoder does not run on the device.
        CapabilityError: If the encoder that is named does not fit the body's sizes.
        MissingExtraError: If its libraries are not installed; for "auto", if no encoder's are.
        EncoderError: If the encoder cannot load the checkpoint.
    """
    body = checkpoint.spec.body
    backend = _pick(config, body)
    if misfit := backend.misfit(body):
        other = _pick(replace(config, encoder=AUTO), body)
        raise CapabilityError(f'{misfit}. Choose encoder="{other.name}", or leave it at "{AUTO}".')
    if backend.name == NATIVE and not is_installed(*backend.modules):
        raise MissingExtraError(
            "the native encoder was not built when polyrank was installed: it needs GCC 12, Clang "
            "15 or newer and CMake 3.25, or a ready wheel for this system. Another encoder comes "
            f"with: {install_command('onnx')}"
        )
    # told why, whoever would have the native one, which needs nothing more, if it fitted
    misfits = _misfits(config, body)
    because = f"{misfits}. " if misfits else ""
    require(backend.extra, *backend.modules, purpose=f"{because}The {backend.name} encoder")
    return backend.make(checkpoint, config)


def plan_encoder(checkpoint: Checkpoint, config: EngineConfig) -> EncoderPlan:
    """Return what `choose_encoder` would load, without loading it.

    Args:
        checkpoint: The opened checkpoint.
        config: As for `choose_encoder`.

    Returns:
        Encoder and compute dtype.

    Raises:
        ConfigError: If the name is unknown, or that encoder does not run on the device.
        CheckpointError: If the folder's gate record cannot be read.
    """
    body = checkpoint.spec.body
    backend = _pick(config, body)
    because = "asked for"
    if config.encoder == AUTO:
        because = _misfits(config, body) or "the first one installed that can do what is asked"
    path = running_path() if backend.name == NATIVE else ""
    choice = choose_compute_dtype(checkpoint, config.compute_dtype, path)
    if not backend.has_narrow:
        reason = float32_reason(checkpoint, choice, backend.name)
        return EncoderPlan(backend.name, because, "float32", reason)
    return EncoderPlan(backend.name, because, choice.name, choice.reason, path)


def _willing(config: EngineConfig) -> list[_Backend]:
    return [entry for entry in _BACKENDS if not entry.objection(config)]


def _misfits(config: EngineConfig, body: BodySpec) -> str:
    """Return why backends that could do what is asked cannot do it for this body; "" for none."""
    return "; ".join(reason for entry in _willing(config) if (reason := entry.misfit(body)))


def _pick(config: EngineConfig, body: BodySpec) -> _Backend:
    if config.encoder == AUTO:
        able = [entry for entry in _willing(config) if not entry.misfit(body)]
        if not able:
            raise ConfigError(
                f"no encoder runs {config.compute_dtype} on {config.device!r} for this checkpoint. "
                "`polyrank doctor` lists the encoders."
            )
        installed = [entry for entry in able if is_installed(*entry.modules)]
        # where none is installed, one that pip can bring is the one to name
        by_pip = [entry for entry in able if entry.name != NATIVE]
        return (installed or by_pip or able)[0]
    for backend in _BACKENDS:
        if backend.name == config.encoder:
            if objection := backend.objection(config):
                raise ConfigError(
                    f"the {backend.name} encoder {objection}. Choose another encoder."
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
    if missing == ["polyrank._native"]:
        reason = "not built: polyrank was installed without a C++ compiler, or for another system"
    elif missing:
        reason = f"{', '.join(missing)} not installed: {install_command(backend.extra)}"
    else:
        reason = f"{', '.join(backend.modules)} installed"
    return EncoderStatus(backend.name, not missing, reason, backend.extra)
