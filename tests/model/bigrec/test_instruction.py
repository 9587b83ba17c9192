"""Samples as text: what other tools read from it are the tokens that the model is scored and tuned on."""

import numpy as np
import pytest

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model.bigrec.instruction import instruction_rows
from recbole_dealrec.model.bigrec.llm import SampleEncoder, load_tokenizer

TITLES = ["", "Alpha", '"Beta" Returns', "NA", "Delta, The", "é & 🎬 <x>", "A <|stop|> in <end> it"]
TARGETS, HISTORIES = np.array([4, 1, 2, 5]), np.array([[1, 2, 3], [5, 4, 0], [2, 1, 4], [3, 0, 0]])


def samples_of(targets, histories):
    lengths = (histories > 0).sum(axis=1)
    return CandidateSamples(np.arange(len(targets)), targets, histories, lengths, TITLES, np.arange(len(targets)))


@pytest.fixture
def encoder(ten, checkpoint):
    """``encoder(kind, **keys)`` for the titles above."""

    def make(kind, **keys):
        config = ten(llm_path=checkpoint(kind), **keys)
        return SampleEncoder(load_tokenizer(config["llm_path"]), config, TITLES)

    return make


@pytest.mark.parametrize("kind", ["llama", "chat llama", "chat llama in messages"])
def test_prompt_and_completion_hold_every_token(kind, encoder, caplog):
    chat = kind.endswith("in messages")
    encoder = encoder(kind.removesuffix(" in messages"), chat_template=chat, train_on_inputs=True)
    samples = samples_of(TARGETS, HISTORIES)
    rows = list(instruction_rows(encoder, samples))
    read = lambda text: encoder.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert [read(row["prompt"]) for row in rows] == encoder.prompts([samples.history(row) for row in range(4)])
    assert [read(row["completion"]) for row in rows] == [encoder.response(item) for item in TARGETS]
    assert [row["completion"] for row in rows] == [row["output"] + ("<|stop|>" if chat else "<end>") for row in rows]
    assert all(row["prompt"].startswith("<begin>") == (kind != "llama") for row in rows)
    assert all(row["instruction"] in row["prompt"] and row["input"] in row["prompt"] for row in rows)
    assert not caplog.records


@pytest.mark.parametrize("chat", [False, True])
def test_samples_whose_text_has_other_tokens_are_counted(chat, encoder, caplog):
    encoder = encoder("chat llama", chat_template=chat)
    histories = np.array([[1, 2, 6], [5, 4, 0], [2, 1, 4], [3, 0, 0]])
    list(instruction_rows(encoder, samples_of(np.array([4, 1, 6, 5]), histories)))
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.message.startswith("2 of 4 samples written as text")
