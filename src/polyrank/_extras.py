"""Checks for optional libraries, with a message that names the command to install them."""

from importlib.util import find_spec

from polyrank.errors import MissingExtraError


def is_installed(*modules: str) -> bool:
    """Return whether every module can be imported, without importing more than their packages."""
    return all(map(_is_found, modules))


def _is_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there either
        return False


def require(extra: str, *modules: str, purpose: str) -> None:
    """Raise unless every module of an extra can be imported.

    Args:
        extra: Name of the extra, as in ``pip install 'polyrank[extra]'``.
        *modules: Modules that the extra brings.
        purpose: What the caller needs them for, as in "Parquet input".

    Raises:
        MissingExtraError: If a module is missing.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {', '.join(missing)}, which is not installed. "
            f"Install it with: pip install 'polyrank[{extra}]'"
        )
