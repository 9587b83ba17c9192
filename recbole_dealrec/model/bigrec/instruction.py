"""Samples as rows that other fine-tuning tools read."""

from collections.abc import Iterator
from logging import getLogger
from typing import Any

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.bigrec.llm import SampleEncoder


def instruction_rows(encoder: SampleEncoder, samples: CandidateSamples) -> Iterator[dict[str, Any]]:
    """Yield the row of each sample for ``LLMRecommender.instructions``.

    ``prompt`` and ``completion`` are whole texts, special tokens and the end token included: tokenised each by itself
    without added special tokens, and joined, they are the tokens that the model is scored and tuned on. A warning says
    of how many samples this does not hold.
    """
    fitted = encoder.fitted_prompts([samples.history(row) for row in range(len(samples))])
    end = encoder.tokenizer.convert_ids_to_tokens(encoder.end_token_id)
    n_other = 0
    for (prompt, ids), item in zip(fitted, samples.item_id, strict=True):
        row = encoder.template.example(prompt, samples.title(item))
        texts = {"prompt": encoder.whole_text(prompt), "completion": row["output"] + end}
        read = encoder.tokenizer([*texts.values()], add_special_tokens=False, verbose=False)["input_ids"]
        n_other += read != [ids, encoder.response(item)]
        yield {**row, **texts}
    if n_other:
        getLogger().warning(
            f"{n_other} of {len(samples)} samples written as text have other tokens when they are read: a title spells "
            "out a special token or is cut, or the tokenizer joins a text to its beginning token"
        )
