"""Which text goes before a query or a document."""

from polyrank.checkpoint.layouts import INPUT_TYPE_PROMPTS
from polyrank.checkpoint.spec import PromptsSpec
from polyrank.config import check_choice
from polyrank.errors import ConfigError
from polyrank.text.inputs import check_text
from polyrank.types import InputType


def choose_prompt(
    prompts: PromptsSpec,
    *,
    input_type: InputType | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> str:
    """Return the text to put before each input.

    Args:
        prompts: The checkpoint's prompts.
        input_type: "query", or "document" (also called "passage"), served by the checkpoint's
            prompt of that purpose, or by none where it has none.
        prompt_name: Name of one of the checkpoint's prompts.
        prompt: The text itself. At most one of the three may be given; without any, the
            checkpoint's default prompt is used, if it has one.

    Returns:
        The prompt, often "".

    Raises:
        ConfigError: If several are given, or the name or type is unknown.
        InputError: If the prompt is no text that can be read.
    """
    given = [value for value in (input_type, prompt_name, prompt) if value is not None]
    if len(given) > 1:
        raise ConfigError("give only one of input_type, prompt_name and prompt")
    if prompt is not None:
        return check_text(prompt, "prompt")
    if input_type is not None:
        return prompt_for_input_type(prompts, input_type)
    name = prompt_name if prompt_name is not None else prompts.default
    if name is None:
        return ""
    try:
        return prompts.by_name[name]
    except (KeyError, TypeError) as exc:
        known = ", ".join(prompts.by_name) or "none"
        raise ConfigError(f"this checkpoint has no prompt {name!r:.80}; it has: {known}") from exc


def prompt_for_input_type(prompts: PromptsSpec, input_type: InputType) -> str:
    """Return the prompt that serves an input type.

    Args:
        prompts: The checkpoint's prompts.
        input_type: "query", "document" or, for the same, "passage".

    Returns:
        The first text among the names that serve this type, "" where there is none.

    Raises:
        ConfigError: If there is no such input type.
    """
    check_choice("input_type", input_type, INPUT_TYPE_PROMPTS)
    texts = (prompts.by_name.get(name, "") for name in INPUT_TYPE_PROMPTS[input_type])
    return next((text for text in texts if text), "")
