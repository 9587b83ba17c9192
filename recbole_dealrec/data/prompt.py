"""The prompt, one template for scoring, training and inference alike."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        InputError: a text names a field that nothing fills, has an unmatched brace, or leaves out the history.
    """

    def __init__(self, config: Config) -> None:
        words = {"noun": config["prompt_noun"], "verb": config["prompt_verb"]}
        self.instruction = _fill("prompt_instruction", config["prompt_instruction"], words)
        self._input = _checked("prompt_input", config["prompt_input"], {"history", *words}, "history")
        needed = None if config["chat_template"] else "input"
        self._layout = _checked("prompt_layout", config["prompt_layout"], {"instruction", "input", *words}, needed)
        self._words = words

    def render(self, history: Sequence[str]) -> Prompt:
        """Prompt for a history of titles, oldest first."""
        asked = self._filled_input(self.list_titles(history))
        text = self._layout.format(instruction=self.instruction, input=asked, **self._words)
        return Prompt(self.instruction, asked, text)

    def example(self, prompt: Prompt, title: str) -> dict[str, Any]:
        """``instruction``, ``input`` and ``output``, as other fine-tuning tools read them."""
        return {"instruction": prompt.instruction, "input": prompt.input, "output": self.response(title)}

    @staticmethod
    def list_titles(titles: Sequence[str]) -> str:
        """Titles in double quotes, separated by commas."""
        return ", ".join(f'"{title}"' for title in titles)

    @staticmethod
    def response(title: str) -> str:
        """What the model is to write for an item."""
        return f'"{title}"'

    def _filled_input(self, listed: str) -> str:
        return self._input.format(history=listed, **self._words)


def _checked(key: str, text: str, fields: set[str], needed: str | None = None) -> str:
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
    if needed and needed not in named:
        raise InputError(f"configuration key '{key}' leaves out the history: it has no {{{needed}}}; add that")
    return text


def _fill(key: str, text: str, words: dict[str, str]) -> str:
    return _checked(key, text, set(words)).format(**words)
