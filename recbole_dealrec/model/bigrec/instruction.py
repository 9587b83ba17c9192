"""Samples as rows for other fine-tuning tools."""

from collections.abc import Iterator
from logging import getLogger
from typing import Any

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.bigrec.llm import SampleEncoder


def instruction_rows(encoder: SampleEncoder, samples: CandidateSamples) -> Iterator[dict[str, Any]]:
    """Yield the row of each sample for ``LLMRecommender.instructions``.

    ``prompt`` and ``completion`` are complete texts, including special tokens and the end token. Tokenised separately,
    without added special tokens, and joined, they give the tokens that the model is scored and fine-tuned on. A warning
    counts the samples for which this is not true.
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
            f"{n_other} of {len(samples)} samples written as text give other tokens when they are tokenised: a title "
            "contains a special token or is truncated, or the tokenizer merges a text with its beginning token"
        )
