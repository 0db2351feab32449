"""How many tokens of each text a sequence keeps."""

from polyrank.config import TruncationConfig
from polyrank.errors import ConfigError


def room_for_texts(config: TruncationConfig, model_limit: int, num_special_tokens: int) -> int:
    """Return how many tokens of text a sequence may hold.

    Args:
        config: The caller's settings.
        model_limit: Most tokens that the checkpoint reads.
        num_special_tokens: Tokens that the template adds.

    Returns:
        Tokens left for the texts, 1 or more.

    Raises:
        ConfigError: If `max_length` is above the checkpoint's limit or leaves no room.
    """
    max_length = model_limit if config.max_length is None else config.max_length
    if max_length > model_limit:
        raise ConfigError(
            f"max_length is {max_length}, but this checkpoint reads at most {model_limit} tokens"
        )
    if max_length <= num_special_tokens:
        raise ConfigError(
            f"max_length is {max_length}; the special tokens alone take {num_special_tokens}, "
            f"so it must be {num_special_tokens + 1} or more"
        )
    return max_length - num_special_tokens


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths left when tokens are cut from the longer text, one by one.

    Where both texts are longer than half of the room, they share it; an odd token goes to the
    longer text, or to the second where they were equally long, as the tokenizers library has it.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Most tokens of both together.

    Returns:
        Tokens kept of the first and of the second text.
    """
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def only_second(first: int, second: int, room: int, max_first: int | None) -> tuple[int, int]:
    """Return the lengths left when the second text alone yields to the first.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Most tokens of both together.
        max_first: Most tokens of the first text; None allows half of the room where the two do
            not fit together.

    Returns:
        Tokens kept of the first and of the second text.
    """
    if max_first is None:
        max_first = first if first + second <= room else max(1, room // 2)
    first = min(first, max_first, room)
    return first, min(second, room - first)
