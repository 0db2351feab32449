"""What a request says of texts that are too long. The cutting itself is `polyrank.text`'s."""

from dataclasses import dataclass

from polyrank.types import Side

MAX_CHARACTERS = 200_000
"""Of a text that has to be tokenised whole, and of all texts whose tokens are asked for.

Tokens in a reply take 400 bytes and 4 microseconds each until they are sent.
"""


@dataclass(frozen=True, slots=True)
class TruncationRequest:
    """How texts that are too long are treated.

    Attributes:
        is_allowed: Whether they are cut; None does as the server's setting says.
        side: "right" cuts the end, "left" the start.
        max_length: Tokens of a text or a pair, special ones included; None, and what is above
            the model's own limit, means that limit.
        max_passages: Passages that are read of a document, at most; None reads all.
        why_not: Why they are not cut, where they are not, for the message.
    """

    is_allowed: bool | None = None
    side: Side = "right"
    max_length: int | None = None
    max_passages: int | None = None
    why_not: str = "the request forbids to cut it"

    @property
    def is_reading_whole(self) -> bool:
        """Whether documents are read in passages: nothing was said of how to cut them."""
        return self.is_allowed is None and self.side == "right" and self.max_length is None
