"""The prompt template of scoring, training and inference."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbole_dealrec.errors import InputError

if TYPE_CHECKING:
    from recbole_dealrec.config import Config

# The separator between two titles of a list. If a title contains it, a backslash separates the two quotes.
_SEPARATOR, _ESCAPED = re.compile(r'(", )(?=\\*")'), r"\1\\"
_ESCAPED_SEPARATOR = re.compile(r'(", )\\(?=\\*")')


@dataclass(frozen=True)
class Prompt:
    """Instruction, input, and the full text of both, which the response continues."""

    instruction: str
    input: str
    text: str


class PromptTemplate:
    """Render the configured texts into prompts that the model continues with a title.

    Args:
        config: reads ``prompt_noun``, ``prompt_verb``, ``prompt_instruction``, ``prompt_input`` and ``prompt_layout``.

    Attributes:
        n_lists: how many times a prompt contains the list of titles.

    Raises:
        InputError: a text has an unknown field or an unmatched brace, or lacks the history.
    """

    def __init__(self, config: "Config") -> None:
        words = {"noun": config["prompt_noun"], "verb": config["prompt_verb"]}
        self.instruction = checked_text("prompt_instruction", config["prompt_instruction"], {*words}).format(**words)
        self._input = checked_text("prompt_input", config["prompt_input"], {"history", *words}, "history")
        needed = None if config["chat_template"] else "input"
        self._layout = checked_text("prompt_layout", config["prompt_layout"], {"instruction", "input", *words}, needed)
        self._words = words

    @property
    def n_lists(self) -> int:
        return self.render(["\ue000"]).text.count("\ue000")

    def render(self, history: Sequence[str]) -> Prompt:
        """Return the prompt for a history of titles, oldest first."""
        asked = self._filled_input(self.list_titles(history))
        text = self._layout.format(instruction=self.instruction, input=asked, **self._words)
        return Prompt(self.instruction, asked, text)

    def example(self, prompt: Prompt, title: str) -> dict[str, Any]:
        """Return ``instruction``, ``input`` and ``output``, the format of fine-tuning tools."""
        return {"instruction": prompt.instruction, "input": prompt.input, "output": self.response(title)}

    @staticmethod
    def list_titles(titles: Sequence[str]) -> str:
        """Return titles in double quotes, separated by commas; different lists of titles give different texts."""
        return ", ".join(map(PromptTemplate.response, titles))

    @staticmethod
    def response(title: str) -> str:
        """Return the response for an item's title, in quotes as in a list of titles."""
        return f'"{_SEPARATOR.sub(_ESCAPED, title)}"'

    @staticmethod
    def title(response: str) -> str:
        """Return the title in a response: its first line, without the quotes that ``response`` adds."""
        line = next(iter(response.strip().splitlines()), "").strip()
        if line.startswith('"'):
            line = line[1:].removesuffix('"')
        return _ESCAPED_SEPARATOR.sub(r"\1", line)

    def _filled_input(self, listed: str) -> str:
        return self._input.format(history=listed, **self._words)


def checked_text(key: str, text: str, fields: set[str], needed: str | None = None) -> str:
    """Return the text of a configuration key; raise InputError if it has other fields or lacks the needed one.

    Args:
        key: the key.
        text: its value, a format string.
        fields: names of the fields that it may have.
        needed: the field that it must have, None if there is none.
    """
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
        raise InputError(f"configuration key '{key}': unknown field {{{unknown}}}; choose from {sorted(fields)}")
    if needed and needed not in named:
        raise InputError(f"configuration key '{key}' lacks the history: it has no {{{needed}}}; add it")
    return text
