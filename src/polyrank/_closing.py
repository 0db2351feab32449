"""What is closed at the end of a `with`."""

from types import TracebackType
from typing import Self


class Closing:
    """A base for what has a `close`: `with` calls it."""

    def close(self) -> None:
        """Let go what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
