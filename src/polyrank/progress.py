"""How long work says how far it is: the two kinds of callback, known to every tier."""

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all, of one kind of work; tokens, mostly."""


class StepProgress(Protocol):
    """Called as work of several steps goes on."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Take the step's name, how much is done of how much, and a word on it."""
        ...


def unheard(step: str, done: int, total: int, note: str = "") -> None:
    """Take progress that nobody asked for."""
