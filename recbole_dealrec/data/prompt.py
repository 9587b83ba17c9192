"""The prompt, one template for scoring, training and inference alike."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_dealrec.config import Config
from recbole_dealrec.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """Instruction, input and the whole text that ends where the response begins."""

    instruction: str
    input: str
    text: str


class PromptTemplate:
    """Fills the configured texts; what it renders ends exactly where the model goes on with the title.

    Args:
        config: reads ``prompt_noun``, ``prompt_verb``, ``prompt_instruction``, ``prompt_input`` and ``prompt_layout``.

    Raises:
        InputError: a text names a field that nothing fills, or has an unmatched brace.
    """

    def __init__(self, config: Config) -> None:
        words = {"noun": config["prompt_noun"], "verb": config["prompt_verb"]}
        self.instruction = _fill("prompt_instruction", config["prompt_instruction"], words)
        self._input = _checked("prompt_input", config["prompt_input"], {"history", *words})
        self._layout = _checked("prompt_layout", config["prompt_layout"], {"instruction", "input", *words})
        self._words = words

    def render(self, history: Sequence[str]) -> Prompt:
        """Prompt for a history of titles, oldest first."""
        listed = self._input.format(history=self.list_titles(history), **self._words)
        text = self._layout.format(instruction=self.instruction, input=listed, **self._words)
        return Prompt(self.instruction, listed, text)

    @staticmethod
    def list_titles(titles: Sequence[str]) -> str:
        """Titles in double quotes, separated by commas."""
        return ", ".join(f'"{title}"' for title in titles)

    @staticmethod
    def response(title: str) -> str:
        """What the model is to write for an item."""
        return f'"{title}"'


def _checked(key: str, text: str, fields: set[str]) -> str:
    try:
        named = {
            field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            for _, field, spec, conversion in string.Formatter().parse(text)
            if field is not None
        }
    except ValueError as error:
        raise InputError(f"configuration key '{key}': {error}; write {{{{ and }}}} for plain braces") from error
    if named - fields:
        unknown = min(named - fields)
        raise InputError(f"configuration key '{key}': unknown field {{{unknown}}}; known are {sorted(fields)}")
    return text


def _fill(key: str, text: str, words: dict[str, str]) -> str:
    return _checked(key, text, set(words)).format(**words)
