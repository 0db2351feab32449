"""The chain of modules of a sentence-transformers folder: `modules.json` and what it names."""

from pathlib import Path

from polyrank.checkpoint.files import is_file, read_json
from polyrank.checkpoint.layouts import (
    CONFIG_FILE,
    LEGACY_POOLING_FLAGS,
    MODULES,
    MODULES_FILE,
    NONLINEARITIES,
    POOLING_MODES,
    TRANSFORMER_CONFIG_FILES,
)
from polyrank.checkpoint.settings import Settings
from polyrank.checkpoint.spec import DenseSpec, HeadSpec
from polyrank.errors import CheckpointError, UnsupportedArchitectureError
from polyrank.types import PoolingMode

MAX_MODULES = 64
MAX_NAME = 255  # characters of a module's folder


FileState = tuple[str, int, int, int, int]
"""Path, size, times of change of content and of entry in nanoseconds, and number on disk."""


def file_state(path: Path) -> FileState:
    """Return the state of a file, which a replacement of the same size and time changes too.

    Args:
        path: The file.

    Returns:
        Its state; all numbers are -1 where there is none.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return str(path), -1, -1, -1, -1
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class Modules:
    """The chain of modules of a sentence-transformers folder (empty for a plain one)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = path = folder / MODULES_FILE
        self.state = file_state(path)
        self.chain: list[tuple[str, Path]] = []
        if not is_file(path):
            return
        entries = Settings({"modules": read_json(path)}, path).mappings("modules", MAX_MODULES)
        for entry in entries:
            kind = entry.needed_text("type").rsplit(".", 1)[-1]
            self.chain.append((MODULES.get(kind, kind), self._subfolder(entry)))
        self._check(path)

    def _subfolder(self, entry: Settings) -> Path:
        relative = entry.needed_text("path")
        if relative and (Path(relative).is_absolute() or ".." in Path(relative).parts):
            raise CheckpointError(
                f"{entry.path} names a folder outside the checkpoint: {relative!r:.200}."
            )
        if len(relative) > MAX_NAME or not relative.isprintable():
            raise entry.error("path", "the name of a folder")
        return self.folder / relative

    def _check(self, path: Path) -> None:
        kinds = [kind for kind, _ in self.chain]
        unknown = [kind for kind in kinds if kind not in MODULES.values()]
        if unknown:
            raise UnsupportedArchitectureError(
                f"{path} uses the module {unknown[0]!r:.200}; polyrank runs {', '.join(MODULES)}."
            )
        if kinds[:1] != ["transformer"] or kinds.count("transformer") != 1:
            raise UnsupportedArchitectureError(
                f"{path} must begin with one Transformer module, not {kinds!r:.200}."
            )
        if kinds.count("pooling") > 1:
            raise self._unpooled()

    def _unpooled(self) -> UnsupportedArchitectureError:
        kinds = [kind for kind, _ in self.chain]
        return UnsupportedArchitectureError(
            f"{self.path} must hold one Pooling module before any Dense one, not {kinds!r:.200}."
        )

    def check_pooled(self) -> None:
        """Raise where token rows are projected or left out and the folder is no embedder.

        Raises:
            UnsupportedArchitectureError: If so; folders of late interaction never get here.
        """
        kinds = {kind for kind, _ in self.chain}
        if "multi_vector_mask" in kinds or ("dense" in kinds and "pooling" not in kinds):
            raise self._unpooled()

    def transformer_settings(self) -> Settings:
        """Return the settings of the transformer's own file, none where there is no such file."""
        for name in TRANSFORMER_CONFIG_FILES:
            if is_file(self.body_folder / name):
                return Settings.read(self.body_folder / name)
        return Settings({}, self.body_folder / TRANSFORMER_CONFIG_FILES[0])

    @property
    def body_folder(self) -> Path:
        """Folder of the transformer: the checkpoint's own, or 0_Transformer in old ones."""
        return self.chain[0][1] if self.chain else self.folder

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the modules behind the transformer that have one of their own."""
        behind = (folder for _, folder in self.chain[1:])
        return tuple(folder for folder in behind if folder != self.folder)

    @property
    def has_pooling(self) -> bool:
        """Whether the chain pools token rows."""
        return any(kind == "pooling" for kind, _ in self.chain)

    def head(self) -> HeadSpec:
        """Return pooling, linear layers and normalisation of the chain as one head."""
        pooling: tuple[PoolingMode, ...] = ("mean",)
        layers: list[DenseSpec] = []
        is_normalized = False
        for kind, folder in self.chain:
            if kind == "pooling":
                pooling = _pooling(folder / CONFIG_FILE)
            elif kind == "dense":
                layers.append(self._dense(folder))
            elif kind == "normalize":
                is_normalized = True
        return HeadSpec(pooling, tuple(layers), is_normalized)

    def _dense(self, folder: Path) -> DenseSpec:
        config = Settings.read(folder / CONFIG_FILE)
        name = config.text("activation_function") or "torch.nn.modules.activation.Tanh"
        if name not in NONLINEARITIES:
            raise UnsupportedArchitectureError(
                f"{config.path} uses the activation {name!r:.200}; polyrank knows "
                f"{', '.join(key for key in NONLINEARITIES if '.' in key)}."
            )
        bias = "linear.bias" if config.flag("bias", default=True) else None
        relative = folder.relative_to(self.folder).as_posix()
        return DenseSpec("linear.weight", bias, NONLINEARITIES[name], relative)


def _pooling(path: Path) -> tuple[PoolingMode, ...]:
    config = Settings.read(path)
    if not config.flag("include_prompt", default=True):
        raise UnsupportedArchitectureError(
            f"{path} pools without the prompt's tokens (include_prompt: false), "
            "which polyrank does not do."
        )
    flags = [flag for flag in LEGACY_POOLING_FLAGS if config.flag(flag, default=False)]
    if "pooling_mode" not in config:
        return tuple(LEGACY_POOLING_FLAGS[flag] for flag in flags) or ("mean",)
    is_one = isinstance(config.content["pooling_mode"], str)
    names = [config.needed_text("pooling_mode")] if is_one else config.texts("pooling_mode")
    unknown = [name for name in names if name not in POOLING_MODES]
    if unknown:
        raise UnsupportedArchitectureError(
            f"{path} pools by {unknown[0]!r:.200}; polyrank knows {', '.join(POOLING_MODES)}."
        )
    if len(set(names)) < len(names):
        raise config.error("pooling_mode", "different modes, each named once")
    return tuple(POOLING_MODES[name] for name in names) or ("mean",)
