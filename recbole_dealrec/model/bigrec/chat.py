"""Prompts and responses as messages in the tokenizer's chat template."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from recbole_dealrec.config import Config
from recbole_dealrec.data import Prompt, PromptTemplate
from recbole_dealrec.errors import InputError

# Private-use characters as placeholders: they show where the template inserts a text.
_HISTORY, _INSTRUCTION, _ANSWER = "\ue000", "\ue001", "\ue002"
# Overrides the function that inserts today's date, so that a run does not depend on the day.
_FIXED_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro +%}"

Messages = list[dict[str, str]]


class ChatTemplate(PromptTemplate):
    """Prompt template of chat messages: system (instruction), user (input) and assistant (title).

    Without support for system messages, the user message begins with the instruction. Text that the chat template
    inserts before a response, such as an empty thought, belongs to the prompt. A date in the template is fixed.

    Args:
        config: reads the keys of ``PromptTemplate`` except ``prompt_layout``, and ``llm_path`` for error messages.
        tokenizer: tokenizer of the language model.

    Attributes:
        end_token_id: special token at the end of the assistant message.

    Raises:
        InputError: there is no chat template, or its assistant message does not continue its prompt.
    """

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config)
        self._tokenizer, self._path = tokenizer, config["llm_path"]
        if not tokenizer.chat_template:
            raise self._error("has no chat template")
        if not tokenizer.is_fast:
            raise self._error("has no tokenizer.json, which a chat template needs")
        self._special_ids = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._has_system = bool(self.instruction) and self._supports_system()
        before, after = self._split_at_response()
        self._constant_texts = before.split(_HISTORY)
        if len(self._constant_texts) == 1:
            raise self._error("has a chat template that omits the user message, which contains the history")
        ends = [number for number in self._encode([after])["input_ids"][0] if number in self._special_ids]
        if not ends:
            raise self._error("has a chat template that ends the assistant message without a special token")
        self.end_token_id = ends[0]

    def render(self, history: Sequence[str]) -> Prompt:
        listed = self.list_titles(history)
        return Prompt(self.instruction, self._filled_input(listed), listed.join(self._constant_texts))

    def example(self, prompt: Prompt, title: str) -> dict[str, Any]:
        """Return ``instruction``, ``input``, ``output`` and ``messages``, the format of chat fine-tuning."""
        messages = [*self._messages(prompt.input), _message("assistant", self.response(title))]
        return {**super().example(prompt, title), "messages": messages}

    def token_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the token ids of prompts; the text of a special token inside a title is encoded as plain text."""
        texts = [prompt.text for prompt in prompts]
        encoded = self._encode(texts, return_offsets_mapping=True)
        rows = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [self._plain_title_ids(*row) for row in rows]

    def _plain_title_ids(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> list[int]:
        spans = self._title_spans(text)
        kept: list[int] = []
        for number, (start, end) in zip(ids, offsets, strict=True):
            if number in self._special_ids and any(start < last and first < end for first, last in spans):
                kept += self._encode([text[start:end]], split_special_tokens=True)["input_ids"][0]
            else:
                kept.append(number)
        return kept

    def _title_spans(self, text: str) -> list[tuple[int, int]]:
        """Return start and end of the titles in a prompt's text."""
        length = (len(text) - sum(map(len, self._constant_texts))) // (len(self._constant_texts) - 1)
        ends = accumulate(len(piece) + length for piece in self._constant_texts[:-1])
        return [(end - length, end) for end in ends if length]

    def _encode(self, texts: list[str], **options: Any) -> dict[str, Any]:
        # The template inserts the begin token itself.
        return self._tokenizer(texts, add_special_tokens=False, verbose=False, **options)

    def _messages(self, asked: str) -> Messages:
        if self._has_system:
            return [_message("system", self.instruction), _message("user", asked)]
        return [_message("user", f"{self.instruction}\n\n{asked}" if self.instruction else asked)]

    def _supports_system(self) -> bool:
        try:
            messages = [_message("system", _INSTRUCTION), _message("user", _HISTORY)]
            return _INSTRUCTION in self._text(messages, add_generation_prompt=True)
        except InputError:
            return False

    def _split_at_response(self) -> tuple[str, str]:
        asked = self._messages(self._filled_input(_HISTORY))
        prompt = self._text(asked, add_generation_prompt=True)
        text = self._text([*asked, _message("assistant", _ANSWER)])
        if not text.startswith(prompt):
            raise self._error("has a chat template whose assistant message does not continue its prompt")
        before, answer, after = text.partition(_ANSWER)
        if not answer:
            raise self._error("has a chat template that omits the assistant message")
        return before, after

    def _text(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=_FIXED_DATE + self._tokenizer.get_chat_template(), tokenize=False,
                add_generation_prompt=add_generation_prompt, enable_thinking=False,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            raise self._error(f"has a chat template that fails: {error}") from error

    def _error(self, reason: str) -> InputError:
        return InputError(
            f"chat_template: llm_path '{self._path}' {reason}; set chat_template to False, or use another model"
        )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
