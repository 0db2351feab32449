"""What a request says of texts that are too long. The cutting itself is `polyrank.text`'s."""

from dataclasses import dataclass

from polyrank.types import Side

MAX_CHARACTERS = 200_000
"""Of a text that has to be tokenised whole, and of all texts whose tokens are asked for.

Tokens in a reply take 400 bytes and 4 microseconds each until they are sent.
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """How texts that are too long are treated.

    Attributes:
        is_allowed: Whether they are cut; None does as the server's setting says.
        side: "right" cuts the end, "left" the start.
        max_length: Tokens of a text or a pair, special ones included; None, and what is above
            the model's own limit, means that limit.
        why_not: Why they are not cut, where they are not, for the message.
    """

    is_allowed: bool | None = None
    side: Side = "right"
    max_length: int | None = None
    why_not: str = "the request forbids to cut it"

    @property
    def window(self) -> str:
        """What of it changes the tokens that are read, as a part of keys."""
        return f"{self.side}:{self.max_length or ''}"
