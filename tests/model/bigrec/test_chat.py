"""Chat templates, byte for byte, and the model that reads and writes what they lay out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from recbole_dealrec.data import CandidateSamples, QueryDataLoader
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.bigrec import BIGRec
from recbole_dealrec.model.bigrec.llm import SampleEncoder, check_llm, load_tokenizer
from recbole_dealrec.scorer import EffortScorer

TITLES = ["", "Alpha", '"Beta" Returns', "NA", "Delta, The", "A <|stop|> in <end> it", "<|turn|>"]
KEYS = {"chat_template": True, "prompt_noun": "film", "prompt_instruction": "Name a {noun}.", "prompt_layout": "unread"}
LAYOUTS = ["system", "no system", "system left out"]
LAID_OUT = {
    "system": """\
<begin><|turn|>system
Name a film.<|stop|>
<|turn|>user
"Alpha", "NA"<|stop|>
<|turn|>assistant
""",
    "no system": """\
<begin><|turn|>user
Name a film.

"Alpha", "NA"<|stop|>
<|turn|>model
""",
    "system left out": """\
<|turn|>Name a film.

"Alpha", "NA"<|stop|><|turn|>""",
}
HISTORY = np.array([1, 3])


@pytest.fixture
def encoder(ten, chat_checkpoint):
    """``encoder(template, **keys)`` for the titles above."""

    def make(template, **keys):
        config = ten(llm_path=chat_checkpoint(template), **{**KEYS, **keys})
        return SampleEncoder(load_tokenizer(config["llm_path"]), config, TITLES)

    return make


@pytest.fixture
def chat_model(bigrec, chat_checkpoint, randomise_adapter):
    """``chat_model(template, **keys)``: BIGRec on the ten-item catalogue under a chat template, and its splits."""

    def make(template="system", **keys):
        model, splits = bigrec(llm_path=chat_checkpoint(template), **{**KEYS, **keys})
        randomise_adapter(model.network)
        return model.eval(), splits

    return make


@pytest.mark.parametrize("template", LAYOUTS)
def test_the_prompt_is_what_the_template_writes(template, encoder):
    encoder = encoder(template)
    (prompt,) = encoder.prompt_texts([HISTORY])
    assert prompt.text == LAID_OUT[template]
    assert (prompt.instruction, prompt.input) == ("Name a film.", '"Alpha", "NA"')


@pytest.mark.parametrize("template", LAYOUTS)
def test_the_messages_render_to_prompt_and_answer(template, encoder):
    encoder = encoder(template)
    example = encoder.template.example(*encoder.prompt_texts([HISTORY]), "Delta, The")
    assert example.keys() == {"instruction", "input", "output", "messages"}
    assert (example["instruction"], example["input"], example["output"]) == (
        "Name a film.", '"Alpha", "NA"', '"Delta, The"'
    )  # fmt: skip
    roles = ["system", "user", "assistant"] if template == "system" else ["user", "assistant"]
    assert [message["role"] for message in example["messages"]] == roles
    tokenizer = encoder.tokenizer
    assert tokenizer.apply_chat_template(example["messages"], tokenize=False).rstrip("\n") == (
        LAID_OUT[template] + '"Delta, The"<|stop|>'
    )
    prompt = tokenizer.apply_chat_template(example["messages"][:-1], tokenize=False, add_generation_prompt=True)
    assert prompt == LAID_OUT[template]


@pytest.mark.parametrize("template", LAYOUTS)
def test_tokens_are_those_of_the_text_without_a_second_begin_token(template, encoder):
    encoder = encoder(template)
    (ids,) = encoder.prompts([np.array([1, 2, 3, 4])])
    (prompt,) = encoder.prompt_texts([np.array([1, 2, 3, 4])])
    messages = encoder.template.example(prompt, "")["messages"][:-1]
    plain = encoder.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == plain
    assert ids.count(encoder.tokenizer.bos_token_id) == (template != "system left out")
    assert encoder.tokenizer("x")["input_ids"][0] == encoder.tokenizer.bos_token_id


def test_prompts_share_the_ids_of_what_they_begin_with(encoder):
    encoder = encoder("system")
    head = LAID_OUT["system"].partition('"Alpha"')[0]
    shared = encoder.tokenizer(head, add_special_tokens=False)["input_ids"]
    for ids in encoder.prompts([np.array([1]), np.array([6, 5]), HISTORY]):
        assert ids[: len(shared)] == shared


@pytest.mark.parametrize("prompt_input", ["{history}", "{history} or {history}?", " {verb}: {history}\n"])
@pytest.mark.parametrize("template", LAYOUTS)
def test_special_tokens_in_titles_are_plain_text(template, prompt_input, encoder):
    encoder = encoder(template, prompt_input=prompt_input)
    specials = {number for number, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}
    (bare,), (ids,) = encoder.prompts([np.array([1])]), encoder.prompts([np.array([1, 5, 6])])
    assert [number for number in ids if number in specials] == [number for number in bare if number in specials]
    assert encoder.tokenizer.decode(ids) == encoder.prompt_texts([np.array([1, 5, 6])])[0].text
    for item in (5, 6):
        response = encoder.response(item)
        assert [number for number in response if number in specials] == [encoder.end_token_id]
        assert encoder.tokenizer.decode(response) == f'"{TITLES[item]}"<|stop|>'


@pytest.mark.parametrize("template", LAYOUTS)
def test_the_answer_ends_with_the_turn_and_not_with_the_text(template, encoder):
    encoder = encoder(template)
    stop = encoder.tokenizer.convert_tokens_to_ids("<|stop|>")
    assert encoder.end_token_id == stop != encoder.tokenizer.eos_token_id
    for item, title in enumerate(TITLES):
        assert encoder.tokenizer.decode(encoder.response(item)) == f'"{title}"<|stop|>'


def test_an_empty_instruction_leaves_out_the_system(encoder):
    (prompt,) = encoder("system", prompt_instruction="").prompt_texts([HISTORY])
    assert prompt.text == '<begin><|turn|>user\n"Alpha", "NA"<|stop|>\n<|turn|>assistant\n'


def test_the_oldest_titles_are_dropped_whole(encoder):
    full = len(encoder("system").prompts([np.array([2, 1, 3])])[0])
    short = encoder("system", max_prompt_length=full - 1)
    assert short.prompt_texts([np.array([2, 1, 3])])[0].text == LAID_OUT["system"]


EACH = "{% for message in messages %}{{ message['content'] }}"
THINKS = """\
{% for message in messages %}<|turn|>{{ message['role'] }}
{% if message['role'] == 'assistant' %}<think>

</think>

{% endif %}{{ message['content'] }}<|stop|>{% endfor %}{% if add_generation_prompt %}<|turn|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""


@pytest.mark.parametrize("template", [THINKS, THINKS.replace("not enable_thinking", "enable_thinking")])
def test_an_empty_thought_belongs_to_the_prompt(template, encoder):
    (prompt,) = encoder(template).prompt_texts([HISTORY])
    assert prompt.text == (
        '<|turn|>system\nName a film.<|stop|><|turn|>user\n"Alpha", "NA"<|stop|>'
        "<|turn|>assistant\n<think>\n\n</think>\n\n"
    )


def test_the_day_of_the_run_changes_nothing(encoder):
    dated = "\n{{ strftime_now('%d %b %Y') if strftime_now is defined }}\n" + EACH + "<|stop|>{% endfor %}"
    (prompt,) = encoder(dated).prompt_texts([HISTORY])
    assert prompt.text == '\n26 Jul 2024\nName a film.<|stop|>"Alpha", "NA"<|stop|>'


REFUSED = {
    "user left out": "omits the user message, which contains the history",
    "{{ raise_exception('no\nturn') }}": "fails: no turn; ",
    "{% for": "fails: ",
    "{{ messages[0]['content']['text'][0] }}": "fails: ",
    EACH + "\n{% endfor %}": "ends the assistant message without a special token",
    EACH + "<|stop|>{% endfor %}{{ '?' if add_generation_prompt }}": "message does not continue its prompt",
    "{% for message in messages if message['role'] != 'assistant' %}{{ message['content'] }}{% endfor %}":
        "omits the assistant message",
}  # fmt: skip


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_does_not_do_is_refused_at_the_start(template, ten, chat_checkpoint):
    config = ten(llm_path=chat_checkpoint(template), **KEYS)
    with pytest.raises(InputError, match=rf"^chat_template: llm_path '.*chat' .*{REFUSED[template]}") as raised:
        BIGRec.check(config)
    assert "\n" not in str(raised.value) and "set chat_template to False" in str(raised.value)


def test_a_tokenizer_without_chat_template_is_refused_at_the_start(ten, checkpoint):
    with pytest.raises(InputError, match="^chat_template: llm_path '.*llama' has no chat template; set"):
        BIGRec.check(ten(llm_path=checkpoint("llama"), chat_template=True))
    with pytest.raises(InputError, match="^chat_template: the tiny LLM has none; set llm_path to a chat model"):
        BIGRec.check(ten(chat_template=True))


def test_templates_without_a_default_are_refused(ten, chat_checkpoint):
    config = ten(llm_path=chat_checkpoint("system"), **KEYS)
    tokenizer = load_tokenizer(config["llm_path"])
    tokenizer.chat_template = {"tool_use": tokenizer.chat_template}
    with pytest.raises(InputError, match="^chat_template: llm_path '.*' has a chat template that fails: "):
        SampleEncoder(tokenizer, config, TITLES)


def test_a_template_with_tokens_that_the_model_lacks_is_refused(ten, chat_checkpoint):
    folder = chat_checkpoint("{% for m in messages %}<|new|>{{ m['content'] }}<|stop|>{% endfor %}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    tokenizer.save_pretrained(folder)
    assert json.loads((Path(folder) / "config.json").read_text())["vocab_size"] == len(tokenizer) - 1
    with pytest.raises(InputError, match=r"the prompt has tokens outside the \d+ of the model; use"):
        check_llm(ten(llm_path=folder, **KEYS))


@pytest.mark.parametrize("template", LAYOUTS)
def test_what_does_passes_the_check(template, ten, chat_checkpoint):
    assert BIGRec.check(ten(llm_path=chat_checkpoint(template), **KEYS)) is None


@pytest.mark.parametrize("template", LAYOUTS)
def test_labels_are_the_answer_and_its_end_of_turn_alone(template, chat_model):
    model, splits = chat_model(template)
    samples = CandidateSamples.from_dataset(splits.train)
    for rows, batch in model.batches(samples):
        for row, ids, mask, labels in zip(
            rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            learnt = labels != -100
            answer = f'"{samples.title(samples.item_id[row])}"<|stop|>'
            assert model.tokenizer.decode(labels[learnt]) == answer
            (prompt,) = model.encoder.prompt_texts([samples.history(row)])
            assert model.tokenizer.decode(ids[mask.bool()]) == prompt.text + answer
            assert learnt.tolist() == sorted(learnt.tolist())  # at the end


@pytest.mark.parametrize("template", LAYOUTS)
def test_effort_is_the_norm_of_each_samples_gradient(template, chat_model):
    model, splits = chat_model(template, effort_parameters="all", tokens_per_batch=600)
    samples = CandidateSamples.from_dataset(splits.train)
    parameters = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    expected, losses = [], []
    for row in range(len(samples)):
        (prompt,) = model.encoder.prompts([samples.history(row)])
        response = model.encoder.response(samples.item_id[row])
        logits = model.network(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(response))
        losses.append(loss.item())
        expected.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).norm().item())
    np.testing.assert_allclose(EffortScorer(model, model.config).score(samples), expected, rtol=1e-4)
    together = model.sample_losses(samples.interaction(model.config, np.arange(len(samples))))
    np.testing.assert_allclose(together.detach(), losses, rtol=1e-4)


def first_queries(model, splits):
    interaction, *_ = next(iter(QueryDataLoader(model.config, splits.test)))
    return interaction, model.encoder.prompts(model._histories(interaction))


def generated(model, prompt, **options):
    """What ``generate`` writes in one beam search, and its beams' summed log-likelihoods."""
    found = model.network.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        length_penalty=0.0, eos_token_id=model.encoder.end_token_id, pad_token_id=model.tokenizer.eos_token_id,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    return found.sequences[:, len(prompt) :].tolist(), found.sequences_scores


@pytest.mark.parametrize("template", ["system", "no system"])
def test_beams_in_the_trie_are_those_of_generate(template, chat_model):
    model, splits = chat_model(template, grounding="trie", num_beams=4)
    interaction, prompts = first_queries(model, splits)
    scores = model.full_sort_predict(interaction)
    responses = {item: model.encoder.response(item) for item in range(1, model.n_items)}
    for row, prompt in enumerate(prompts):

        def allowed(_, ids, prompt=prompt):
            written = ids[len(prompt) :].tolist()
            following = {r[len(written)] for r in responses.values() if r[: len(written)] == written and r != written}
            return sorted(following) or [model.tokenizer.eos_token_id]

        sequences, likelihoods = generated(
            model, prompt, num_beams=4, num_return_sequences=4, max_new_tokens=max(map(len, responses.values())),
            prefix_allowed_tokens_fn=allowed,
        )  # fmt: skip
        for sequence, likelihood in zip(sequences, likelihoods, strict=True):
            ended = sequence[: sequence.index(model.encoder.end_token_id) + 1]
            items = [item for item, response in responses.items() if response == ended]
            assert items
            torch.testing.assert_close(scores[row, items], likelihood.expand(len(items)), atol=2e-3, rtol=1e-4)
        assert (scores[row, 1:] >= likelihoods.min() - 2e-3).sum() in (4, 5)  # two items share a title


def test_titles_written_freely_end_with_the_turn(chat_model):
    model, splits = chat_model(grounding="embedding", num_beams=3, max_new_tokens=12)
    interaction, prompts = first_queries(model, splits)
    (written,), _ = generated(model, prompts[0], num_beams=3, max_new_tokens=12)
    # Both become likely: the end of the text, which ends nothing here, and behind it the end of the turn.
    head = model.network.get_base_model().lm_head.weight
    with torch.no_grad():
        head[model.tokenizer.eos_token_id] = head[written[0]] * 1.3
        head[model.encoder.end_token_id] = head[written[3]]
    scores = model.full_sort_predict(interaction)
    ends = []
    for row, prompt in enumerate(prompts):
        (written,), _ = generated(model, prompt, num_beams=3, max_new_tokens=12)
        ends.append([token for token in written if token in (model.tokenizer.eos_token_id, written[-1])])
        text = model.tokenizer.decode(written, skip_special_tokens=True).strip().splitlines()
        query = model.embed_titles([text[0].strip().strip('"') if text else ""])
        distance = torch.cdist(query, model.item_embeddings)[0]
        expected = -(distance - distance.min()) / (distance.max() - distance.min())
        torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=1e-4)
    assert [model.tokenizer.eos_token_id, model.encoder.end_token_id] in ends


def test_titles_are_embedded_without_a_template(chat_model, bigrec, chat_checkpoint):
    model, _ = chat_model()
    plain, _ = bigrec(llm_path=chat_checkpoint("system"))
    torch.testing.assert_close(model.item_embeddings, plain.item_embeddings)
    assert not re.search("turn", model.tokenizer.decode(model.encoder.title_ids(["Alpha"])[0]))
