"""One checked reader of a configuration's values: type and range of each are looked at here.

Whatever a JSON file of a checkpoint says is untrusted until one of these methods returned it. A key
that is absent and one that is ``null`` mean the same, as they do to transformers.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from polyrank.checkpoint.files import read_object, read_optional
from polyrank.errors import CheckpointError

MAX_SIZE = 1 << 24  # of anything that a model counts: pieces, positions, values of a row
MAX_ITEMS = 1 << 16  # of a list of names
MAX_TEXT = 1 << 16  # characters of one text
LARGEST_FLOAT32 = 3.4028234663852886e38

Value = TypeVar("Value")


class Settings:
    """The object of a JSON file, or one inside of it."""

    def __init__(self, content: Mapping[str, Any], path: Path, within: str = "") -> None:
        """Take what was read.

        Args:
            content: Keys and values.
            path: The file, for messages.
            within: Name of the object inside the file, for messages; "" for the whole.
        """
        self.content = content
        self.path = path
        self._within = within

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read a file that must be there."""
        return cls(read_object(path), path)

    @classmethod
    def read_optional(cls, path: Path) -> "Settings":
        """Read a file, or nothing where there is none."""
        return cls(read_optional(path), path)

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that would be read over in silence.

        Args:
            known: Every key that the object may hold.

        Raises:
            CheckpointError: If it holds another.
        """
        for key in self.content:
            if key not in known:
                raise self.error(key, f"left out: known are {', '.join(known)}")

    def error(self, key: str, needed: str) -> CheckpointError:
        """Return the error of a value that is not what is needed.

        Args:
            key: The value's.
            needed: What it must be, as in "a text".

        Returns:
            The error, to be raised.
        """
        return CheckpointError(
            f"{self.path} says {self.name(key)} is {self.content.get(key)!r:.200}; it must be "
            f"{needed}."
        )

    def name(self, key: str) -> str:
        """Return how messages call a key: with the objects that it stands in."""
        return repr(f"{self._within}.{key}" if self._within else key)

    def integer(
        self, key: str, *, low: int = 0, high: int | None = MAX_SIZE, default: int | None = None
    ) -> int:
        """Return a whole number.

        Args:
            key: Its key.
            low: The lowest allowed.
            high: The highest allowed; None for no limit.
            default: Where the file names none; None where it must.

        Returns:
            The number.

        Raises:
            CheckpointError: If it is absent without a default, no whole number, or out of range.
        """
        value = self._get(key, default)
        if type(value) is not int or value < low:
            needed = f"of {low:,} or more" if low != 1 else "above 0"
            raise self.error(key, f"a whole number {needed}")
        if high is not None and value > high:
            raise self.error(key, f"a whole number of {high:,} at most")
        return value

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number.

        Args:
            key: Its key.
            low: The lowest allowed.
            high: The highest allowed, which is finite.
            default: Where the file names none; None where it must.

        Returns:
            The number.

        Raises:
            CheckpointError: If it is absent without a default, no number, or out of range.
        """
        value = self._get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise self.error(key, f"a finite number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false; raises `CheckpointError` for anything else."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """Return a text of UTF-8, or None; raises `CheckpointError` for anything else."""
        value = self.content.get(key)
        if value is not None and not is_text(value):
            raise self.error(key, f"a text of {MAX_TEXT:,} characters at most")
        return value

    def needed_text(self, key: str) -> str:
        """Return a text that has to be there; raises `CheckpointError` where it is not."""
        value = self.text(key)
        if value is None:
            raise self._missing(key)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty where absent; `CheckpointError` for anything else."""
        value = self.content.get(key)
        if value is None:
            return ()
        is_list = isinstance(value, list) and len(value) <= MAX_ITEMS
        if not is_list or not all(map(is_text, value)):
            raise self.error(key, f"a list of {MAX_ITEMS:,} texts at most")
        return tuple(value)

    def choice(self, key: str, choices: Mapping[str, Value], default: str | None = None) -> Value:
        """Return what a name stands for.

        Args:
            key: The name's key.
            choices: Names with what they stand for.
            default: Name where the file gives none; None where it must.

        Returns:
            What stands under the name.

        Raises:
            CheckpointError: If the name is absent without a default, or none of the choices.
        """
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"one of {', '.join(choices)}")
        return choices[value]

    def mapping(self, key: str) -> "Settings":
        """Return an object, empty where absent; raises `CheckpointError` for anything else."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "an object")
        return Settings(value or {}, self.path, self.name(key)[1:-1])

    def mappings(self, key: str, most: int) -> tuple["Settings", ...]:
        """Return a list of objects.

        Args:
            key: The list's.
            most: How many there may be.

        Returns:
            The objects, none where the list is absent.

        Raises:
            CheckpointError: If it is anything else.
        """
        value = self.content.get(key, [])
        is_list = isinstance(value, list) and len(value) <= most
        if not is_list or not all(isinstance(entry, dict) for entry in value):
            raise self.error(key, f"a list of {most:,} objects at most")
        within = self.name(key)[1:-1]
        return tuple(Settings(entry, self.path, f"{within}[{i}]") for i, entry in enumerate(value))

    def _get(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        value = default if value is None else value
        if value is None:
            raise self._missing(key)
        return value

    def _missing(self, key: str) -> CheckpointError:
        return CheckpointError(f"{self.path} lacks the key {self.name(key)}, which polyrank needs.")


def is_text(value: Any) -> bool:
    """Return whether a value is a text that UTF-8 can hold, of a sane length."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    try:
        value.encode("utf8")
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True
