"""Batches of prompts and responses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_dealrec.model.loss import IGNORED_LABEL


def collate(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]] | None, pad: int, on_inputs: bool = False
) -> dict[str, Tensor]:
    """Return a left-padded batch.

    Args:
        prompts: token ids of the prompts.
        responses: token ids of the responses; None for inference.
        pad: padding token.
        on_inputs: whether the prompt's tokens are labels too.

    Returns:
        ``input_ids``, ``attention_mask``, ``position_ids`` and, with responses, ``labels`` (-100: ignored), int64
        [B, T] each.
    """
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses or [()] * len(prompts), strict=True)]
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    for index, row in enumerate(rows):
        ids = torch.tensor(row)
        input_ids[index, width - len(row) :] = ids
        mask[index, width - len(row) :] = 1
        # The first token of a row is never predicted.
        labelled = len(row) - (1 if on_inputs else len(prompts[index]))
        labels[index, width - labelled :] = ids[len(row) - labelled :]
    batch = {"input_ids": input_ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    return batch if responses is None else {**batch, "labels": labels}
