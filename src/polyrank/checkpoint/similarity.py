"""How a checkpoint's vectors are compared, as sentence-transformers saves it beside the prompts."""

from pathlib import Path

from polyrank.checkpoint.files import read_optional
from polyrank.checkpoint.layouts import PROMPTS_FILE

DEFAULT_SIMILARITY = "cosine"


def read_similarity(folder: Path) -> str:
    """Return the name of the similarity that a folder asks for; cosine where it names none.

    Args:
        folder: The checkpoint's folder.

    Returns:
        The name, such as "cosine" or "dot"; whoever computes it checks that it is known.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    return str(read_optional(folder / PROMPTS_FILE).get("similarity_fn_name") or DEFAULT_SIMILARITY)
