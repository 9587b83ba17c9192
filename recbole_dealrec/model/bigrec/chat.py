"""Prompt and answer as messages, laid out by the tokenizer's own chat template."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from recbole_dealrec.config import Config
from recbole_dealrec.data import Prompt, PromptTemplate
from recbole_dealrec.errors import InputError

# Characters for private use, which stand for a text while it is looked up where the template puts it.
_HISTORY, _INSTRUCTION, _ANSWER = "\ue000", "\ue001", "\ue002"
# Put before a template, it takes the place of today's date, which would make a run depend on its day.
_FIXED_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro +%}"

Messages = list[dict[str, str]]


class ChatTemplate(PromptTemplate):
    """Lays out messages: the instruction as the system's, the input as the user's, the title as the assistant's.

    A template that refuses or leaves out the system's message gets the instruction at the head of the user's. What it
    writes before an answer, such as an empty thought, belongs to the prompt. Nothing depends on the day of the run: a
    template that writes the date gets a fixed one.

    Args:
        config: as ``PromptTemplate`` reads it, but for ``prompt_layout``, and ``llm_path`` for errors.
        tokenizer: of the language model.

    Attributes:
        end_token_id: special token that ends the assistant's turn.

    Raises:
        InputError: there is no chat template, or it cannot lay out a prompt that an answer continues.
    """

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config)
        self._tokenizer, self._path = tokenizer, config["llm_path"]
        if not tokenizer.chat_template:
            raise self._refusal("has no chat template")
        if not tokenizer.is_fast:
            raise self._refusal("has no tokenizer.json, which a chat template needs")
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._has_system = bool(self.instruction) and self._keeps_system()
        before, behind = self._around_answer()
        self._pieces = before.split(_HISTORY)
        if len(self._pieces) == 1:
            raise self._refusal("has a chat template that leaves out the user's message, and the history with it")
        ends = [number for number in self._tokens([behind])["input_ids"][0] if number in self._special]
        if not ends:
            raise self._refusal("has a chat template that ends the assistant's message with no special token")
        self.end_token_id = ends[0]

    def render(self, history: Sequence[str]) -> Prompt:
        listed = self.list_titles(history)
        return Prompt(self.instruction, self._filled_input(listed), listed.join(self._pieces))

    def example(self, prompt: Prompt, title: str) -> dict[str, Any]:
        """``instruction``, ``input`` and ``output``, and the ``messages`` that chat fine-tuning reads."""
        messages = [*self._messages(prompt.input), _message("assistant", self.response(title))]
        return {**super().example(prompt, title), "messages": messages}

    def token_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts. Special tokens are those of the template alone; in a title they are plain text."""
        texts = [prompt.text for prompt in prompts]
        encoded = self._tokens(texts, return_offsets_mapping=True)
        rows = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [self._without_special_titles(*row) for row in rows]

    def _without_special_titles(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> list[int]:
        spans = self._title_spans(text)
        kept: list[int] = []
        for number, (start, end) in zip(ids, offsets, strict=True):
            if number in self._special and any(start < last and first < end for first, last in spans):
                kept += self._tokens([text[start:end]], split_special_tokens=True)["input_ids"][0]
            else:
                kept.append(number)
        return kept

    def _title_spans(self, text: str) -> list[tuple[int, int]]:
        """Where the titles stand in a prompt's text."""
        length = (len(text) - sum(map(len, self._pieces))) // (len(self._pieces) - 1)
        ends = accumulate(len(piece) + length for piece in self._pieces[:-1])
        return [(end - length, end) for end in ends if length]

    def _tokens(self, texts: list[str], **options: Any) -> dict[str, Any]:
        # The template itself writes the token that a text begins with.
        return self._tokenizer(texts, add_special_tokens=False, verbose=False, **options)

    def _messages(self, asked: str) -> Messages:
        if self._has_system:
            return [_message("system", self.instruction), _message("user", asked)]
        return [_message("user", f"{self.instruction}\n\n{asked}" if self.instruction else asked)]

    def _keeps_system(self) -> bool:
        try:
            messages = [_message("system", _INSTRUCTION), _message("user", _HISTORY)]
            return _INSTRUCTION in self._text(messages, add_generation_prompt=True)
        except InputError:
            return False

    def _around_answer(self) -> tuple[str, str]:
        asked = self._messages(self._filled_input(_HISTORY))
        prompt = self._text(asked, add_generation_prompt=True)
        whole = self._text([*asked, _message("assistant", _ANSWER)])
        if not whole.startswith(prompt):
            raise self._refusal("has a chat template whose answer does not continue its prompt")
        before, answer, behind = whole.partition(_ANSWER)
        if not answer:
            raise self._refusal("has a chat template that leaves out the assistant's message")
        return before, behind

    def _text(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=_FIXED_DATE + self._tokenizer.get_chat_template(), tokenize=False,
                add_generation_prompt=add_generation_prompt, enable_thinking=False,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            raise self._refusal(f"has a chat template that fails: {error}") from error

    def _refusal(self, reason: str) -> InputError:
        return InputError(
            f"chat_template: llm_path '{self._path}' {reason}; set chat_template to False, or name another model"
        )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
