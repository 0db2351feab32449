"""What the classes of other libraries share: arguments translated or refused, progress, tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast, get_args

from numpy.typing import NDArray

from polyrank._extras import require
from polyrank.errors import ConfigError
from polyrank.progress import Progress
from polyrank.types import Activation

LOADING = {
    "device": "device",
    "revision": "revision",
    "cache_folder": "cache_dir",
    "cache_dir": "cache_dir",
    "local_files_only": "local_files_only",
}
"""Arguments of loading that other libraries share, and polyrank's names for them."""

NEUTRAL = ("batch_size", "verbose", "chunk_size")
"""Arguments that change no result: polyrank cuts batches by their tokens and prints nothing."""


def refuse(call: str, arguments: Mapping[str, object]) -> None:
    """Raise for the first argument that asks for something; None and False ask for nothing."""
    for name, value in arguments.items():
        if name not in NEUTRAL and value is not None and value is not False:
            raise ConfigError(
                f"{call} of polyrank.compat cannot honour {name}={value!r:.80}. Leave it out, or "
                "keep the other library for this call."
            )


def translated(
    call: str, arguments: Mapping[str, object], names: Mapping[str, str] = LOADING
) -> dict[str, Any]:
    """Return arguments that were given under polyrank's names, and refuse those without one."""
    refuse(call, {name: value for name, value in arguments.items() if name not in names})
    given = {name: value for name, value in arguments.items() if name in names}
    return {names[name]: value for name, value in given.items() if value is not None}


def encoder_of(call: str, backend: object) -> str:
    """Return polyrank's encoder for a backend of sentence-transformers; "torch" is its default."""
    if backend not in (None, "torch", "onnx"):
        refuse(call, {"backend": backend})
    return "onnx" if backend == "onnx" else "auto"


def activation_of(function: Any) -> Activation | None:
    """Return polyrank's name of an activation of torch, given as a module or by its path."""
    if function is None:
        return None
    path = function if isinstance(function, str) else type(function).__name__
    name = path.rsplit(".", 1)[-1].lower()
    if name not in get_args(Activation):
        refuse("CrossEncoder", {"activation_fn": function})
    return cast(Activation, name)


class ResultForm:
    """How one call wants its result: with a bar of progress or none, as arrays or tensors."""

    def __init__(self, call: str, arguments: dict[str, Any], *, is_single: bool) -> None:
        """Take what is known out of a call's arguments and refuse the rest."""
        self._is_shown = arguments.pop("show_progress_bar", None)
        self._is_tensor = bool(arguments.pop("convert_to_tensor", False))
        self._is_numpy = bool(arguments.pop("convert_to_numpy", True)) and not self._is_tensor
        self._is_single = is_single
        refuse(call, arguments)

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """Show on the terminal how far the call is, if asked."""
        if not self._is_shown:
            yield None
            return
        from rich.progress import Progress as Bar

        with Bar(transient=True) as bar:
            task = bar.add_task("tokens")
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def of(self, values: NDArray[Any]) -> Any:
        """Return an array, one tensor, or a list of tensors; the only member for one input."""
        if self._is_numpy:
            return values[0] if self._is_single else values
        tensor = as_tensor(values)
        if self._is_single:
            return tensor[0]
        return tensor if self._is_tensor else list(tensor)


def as_tensor(values: NDArray[Any]) -> Any:
    """Return an array as a tensor of torch, which the caller asked for by name."""
    require("torch", "torch", purpose="a result as a tensor")
    import torch

    return torch.as_tensor(values)
