import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.bigrec.llm import SampleEncoder, check_llm, load_network, load_tokenizer

TITLES = ["", "Alpha", '"Beta" Returns', "NA", "Delta, The", "A very long title " * 8]


@pytest.fixture
def encoder(ten, checkpoint):
    def make(**keys):
        config = ten(llm_path=checkpoint("llama"), **keys)
        return SampleEncoder(load_tokenizer(config["llm_path"]), config, TITLES)

    return make


def test_collate_pads_left_and_labels_the_response():
    batch = collate([[5, 6, 7], [8]], [[1, 0], [2, 3, 0]], pad=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 0], [9, 8, 2, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 1, 0], [-100, -100, 2, 3, 0]]


def test_collate_labels_the_prompt_too_when_asked():
    assert collate([[5, 6], [8]], [[0], [0]], 9, on_inputs=True)["labels"].tolist() == [[-100, 6, 0], [-100, -100, 0]]


def test_collate_for_inference_has_no_labels():
    assert "labels" not in collate([[5, 6], [8]], None, 9)


def test_prompt_tokens_are_those_of_the_prompt_text(encoder):
    encoder = encoder(max_history_titles=3)
    history = np.array([1, 2, 3, 4])
    expected = encoder.template.render([TITLES[2], TITLES[3], TITLES[4]]).text
    assert encoder.prompts([history]) == [encoder.tokenizer(expected)["input_ids"]]
    assert encoder.prompt_texts([history])[0].text == expected


def test_a_history_is_tokenised_once_for_all_epochs(encoder, monkeypatch):
    encoder, tokenised = encoder(max_history_titles=2), []
    histories = [np.array(items) for items in ([1, 2], [3], [4, 1, 2], [2, 1])]
    expected = encoder.prompts(histories)
    encode = encoder.prompts
    monkeypatch.setattr(encoder, "prompts", lambda rows: tokenised.extend(map(list, rows)) or encode(rows))
    for order in ([0, 1], [2, 1, 0], [3, 0, 0]):
        found = encoder.cached_prompts([histories[place] for place in order])
        assert found == [expected[place] for place in order]
        found[0].append(7)  # a caller's change reaches no later batch
    assert tokenised == [[1, 2], [3], [2, 1]]


def test_a_history_says_more_of_items_than_their_titles(ten, checkpoint):
    config = ten(llm_path=checkpoint("llama"))
    texts = [f"{title} (1990)" for title in TITLES]
    encoder = SampleEncoder(load_tokenizer(config["llm_path"]), config, TITLES, texts)
    expected = encoder.template.render(["Alpha (1990)", "NA (1990)"]).text
    assert encoder.prompts([np.array([1, 3])]) == [encoder.tokenizer(expected)["input_ids"]]
    spelled = encoder.tokenizer.decode(encoder.response(3), skip_special_tokens=True)
    assert spelled.replace(" ", "") == '"NA"'


@pytest.mark.parametrize(
    ("form", "front"),
    [("$A <end>", ""), ("<begin> $A <end>", "<begin>"), ("<end> $A", "<end>"), ("$A", "")],
)
def test_no_end_token_is_put_behind_a_prompt_or_a_title(form, front, checkpoint, ten):
    config = ten(llm_path=checkpoint("chat llama"))
    tokenizer = load_tokenizer(config["llm_path"])
    specials = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<begin>", "<end>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(form, special_tokens=specials)
    encoder = SampleEncoder(tokenizer, config, TITLES)
    tokens = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert encoder.prompts([[1, 2]]) == [tokens(front + encoder.prompt_texts([[1, 2]])[0].text)]
    assert encoder.title_ids(["Alpha", "NA"]) == [tokens(front + "Alpha"), tokens(front + "NA")]
    assert encoder.response(1) == tokens('"Alpha"<end>')


def test_the_oldest_titles_are_dropped_whole(encoder):
    full = len(encoder().prompts([np.array([5, 1, 2])])[0])
    short = encoder(max_prompt_length=full - 1)
    assert short.prompt_texts([np.array([5, 1, 2])])[0] == short.template.render(["Alpha", '"Beta" Returns'])
    assert len(short.prompts([np.array([5, 1, 2])])[0]) < full


def test_rows_that_fit_are_left_alone_beside_one_that_does_not(encoder):
    limit = len(encoder().prompts([np.array([1, 2, 3])])[0])
    histories = [np.array([1, 2, 3]), np.array([5, 1])]
    texts = [prompt.text for prompt in encoder(max_prompt_length=limit).prompt_texts(histories)]
    render = encoder().template.render
    assert texts == [render(["Alpha", '"Beta" Returns', "NA"]).text, render(["A ver", "Alpha"]).text]


@pytest.mark.parametrize("length", [400, 100_000])
@pytest.mark.parametrize("history", [[1, 2, 3], [3, 1, 2], [1, 3, 2], [3]])
@pytest.mark.parametrize("llm", ["llama", "chat llama"])
def test_a_title_that_no_prompt_has_room_for_is_cut_and_the_others_stay(length, history, llm, ten, checkpoint, caplog):
    config = ten(llm_path=checkpoint(llm), max_prompt_length=300, chat_template=llm == "chat llama")
    titles = ["", "Alpha", "Beta", "é7" * (length // 2)]
    encoder = SampleEncoder(load_tokenizer(config["llm_path"]), config, titles)
    ((prompt,), (ids,)) = encoder.prompt_texts([np.array(history)]), encoder.prompts([np.array(history)])
    given = dict(zip(history, (title.strip('"') for title in prompt.input.split(", ")), strict=True))
    cut = given.pop(3)
    assert given == {item: titles[item] for item in history if item != 3}
    assert titles[3].startswith(cut) and len(cut) < length and len(ids) <= 300
    taken, longer = (len(encoder.tokenizer(f'"{text}"')["input_ids"]) for text in (cut, f"{cut}é7"))
    (room,) = {encoder.max_prompt_length - len(encoder._prompt_ids([encoder.template.render([""])])[0])}
    assert taken <= room // 2 < longer + 1
    assert [
        record.message.startswith("1 titles have more tokens than fit into a prompt") for record in caplog.records
    ][-1:] == [True]
    samples = CandidateSamples(*map(np.array, ([1], [1], [history], [len(history)])), titles, np.arange(1))
    assert encoder.history_lengths(samples)[0] <= room


@pytest.mark.parametrize("text", ["{history} {history} {history}", "{history}{history}"])
def test_a_prompt_with_several_lists_has_room_for_a_title_in_each(text, ten, checkpoint):
    config = ten(llm_path=checkpoint("llama"), prompt_input=text, max_prompt_length=260)
    encoder = SampleEncoder(load_tokenizer(config["llm_path"]), config, ["", "Alpha", "x" * 500])
    for history in ([2], [1, 2], [2, 2], [2, 1]):
        ((prompt,), (ids,)) = encoder.prompt_texts([np.array(history)]), encoder.prompts([np.array(history)])
        assert len(ids) <= 260 and "xx" in prompt.input and ("Alpha" in prompt.input) == (1 in history)


def test_a_prompt_that_cannot_fit_is_an_error(encoder):
    with pytest.raises(InputError, match="max_prompt_length is 3, a prompt without titles has"):
        encoder(max_prompt_length=3).prompts([np.array([1])])


def test_response_is_the_quoted_title_and_the_end_token(encoder):
    encoder = encoder()
    ids = encoder.response(2)
    assert ids[-1] == encoder.tokenizer.eos_token_id
    assert encoder.tokenizer.decode(ids[:-1]) == '""Beta" Returns"'


def test_an_end_token_spelled_out_in_a_title_is_plain_text(ten, checkpoint):
    config = ten(llm_path=checkpoint("llama"))
    encoder = SampleEncoder(load_tokenizer(config["llm_path"]), config, ["", "The <end> of it"])
    assert encoder.response(1).count(encoder.tokenizer.eos_token_id) == 1
    assert encoder.tokenizer.eos_token_id not in encoder.prompts([np.array([1])])[0]


def test_a_tokenizer_without_end_token_is_an_error(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("llama"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(InputError, match="no end token"):
        load_tokenizer(str(tmp_path / "endless"))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gpt2"])
def test_only_lora_matrices_of_the_targets_train(ten, checkpoint, kind):
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    network = load_network(ten(lora_target_modules=targets, lora_r=4), checkpoint(kind))
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * len(targets)  # A and B in two layers
    assert all("lora_" in name and any(target in name for target in targets) for name in trained)
    assert all(parameter.shape[0] == 4 for name, parameter in trained.items() if "lora_A" in name)


def test_absent_target_modules_name_the_usual_ones(ten, checkpoint):
    with pytest.raises(InputError, match=r"GPT2LMHeadModel has no module 'q_proj'; usual for gpt2 is \['c_attn'\]"):
        load_network(ten(), checkpoint("gpt2"))


@pytest.mark.parametrize("path", ["no-such-folder/at/all", "empty"])
def test_an_unusable_path_is_an_error_in_one_line(ten, tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"^llm_path '{path}': ") as raised:
        check_llm(ten(llm_path=path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gpt2"])
def test_a_whole_checkpoint_passes(kind, ten, checkpoint):
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    base, _ = check_llm(ten(llm_path=checkpoint(kind), lora_target_modules=targets))
    assert {parameter.device.type for parameter in base.parameters()} == {"meta"}


@pytest.fixture
def altered(checkpoint, tmp_path):
    """``altered(file, **keys)``: a copy of the Llama checkpoint, keys of one of its JSON files changed."""

    def make(file="config.json", **keys):
        folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "altered"))
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps({**content, **keys}), encoding="utf-8")
        return folder

    return make


def refusal(config):
    """What is wrong with a checkpoint, after its path."""
    with pytest.raises(InputError) as raised:
        check_llm(config)
    message = str(raised.value)
    assert message.startswith("llm_path '") and "\n" not in message
    return message.partition("'altered'")[2] or message.partition("altered'")[2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": 64}, "its weights do not match the LlamaForCausalLM that config.json describes; "),
        ({"num_hidden_layers": 3}, "9 are missing or have another shape, such as model.layers.2."),
        ({"vocab_size": 100}, "2 are missing or have another shape, such as lm_head.weight"),
        ({"model_type": "mamba"}, "its weights do not match the MambaForCausalLM"),
        ({"model_type": "no-such"}, "cannot be loaded: The checkpoint you are trying to load has model type `no-such`"),
        ({"hidden_size": "wide"}, "cannot be loaded: "),
        ({"num_attention_heads": 0}, "cannot be loaded: "),
        ({"max_position_embeddings": 512}, "reads at most 512 tokens; lower max_prompt_length or max_new_tokens"),
    ],
)
def test_weights_that_do_not_match_the_model_are_an_error(keys, message, ten, altered):
    assert message in refusal(ten(llm_path=str(altered(**keys))))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, "cannot be loaded: Error no file named model.safetensors"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "cannot be loaded: "),
        ("config.json", b"{", "cannot be loaded: "),
        ("config.json", b"[1]", "cannot be loaded: "),
        ("tokenizer.json", b"{}", "cannot be loaded: "),
        ("adapter_config.json", b"{}", "is a PEFT adapter, not a model; use what its merge_and_unload() returns"),
    ],
)
def test_files_that_are_broken_or_no_model_are_an_error(file, content, message, ten, altered):
    folder = altered()
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    assert message in refusal(ten(llm_path=str(folder)))


def test_a_checkpoint_that_is_cut_short_is_an_error(ten, altered):
    folder = altered()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    assert "cannot be loaded: " in refusal(ten(llm_path=str(folder)))


@pytest.fixture
def in_4_bits(checkpoint, tmp_path):
    """Folder of the wide Llama as bitsandbytes keeps it in 4 bits."""
    pytest.importorskip("bitsandbytes")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    folder = checkpoint("wide llama")
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings).save_pretrained(tmp_path / "altered")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "altered")
    return tmp_path / "altered"


def test_a_checkpoint_saved_in_4_bits_passes_and_is_loaded(ten, in_4_bits):
    config = ten(llm_path=str(in_4_bits))
    check_llm(config)
    network = load_network(config, str(in_4_bits))
    assert network.get_base_model().is_loaded_in_4bit


def test_a_module_missing_from_a_checkpoint_in_4_bits_is_an_early_error(ten, in_4_bits):
    file = in_4_bits / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layers.1.self_attn.q_proj" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    assert "1 are missing or have another shape, such as model.layers.1.self_attn.q_proj.weight" in refusal(
        ten(llm_path=str(in_4_bits))
    )


def test_an_adapter_folder_is_an_error(ten, checkpoint, tmp_path):
    load_network(ten(), checkpoint("llama")).save_pretrained(tmp_path / "altered")
    assert "is a PEFT adapter, not a model" in refusal(ten(llm_path=str(tmp_path / "altered")))


def test_a_tokenizer_of_another_model_is_an_error(ten, altered):
    folder = altered()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    other = tokenizer.train_new_from_iterator([f"word{number}" for number in range(100)], 400)
    other.save_pretrained(folder)
    assert len(other) > len(tokenizer)
    message = refusal(ten(llm_path=str(folder)))
    assert f"the tokenizer has {len(other)} tokens, the model {len(tokenizer)}" in message


@pytest.mark.parametrize("special", [False, True])
def test_a_token_that_a_text_may_hold_has_to_be_known(special, ten, altered):
    folder = altered()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_tokens([AddedToken("Zyxwv", special=special)], special_tokens=special)
    tokenizer.save_pretrained(folder)
    config = ten(llm_path=str(folder))
    if special:  # is encoded as plain text
        _, encoder = check_llm(config)
        assert max(max(row) for row in encoder.title_ids(["Zyxwv", "Alpha Zyxwv"])) < known
    else:
        assert f"the tokenizer has {known + 1} tokens, the model {known}" in refusal(config)


def test_a_tokenizer_without_end_token_is_an_early_error(ten, altered):
    folder = altered("tokenizer_config.json", eos_token=None)
    assert "no end token; set eos_token in tokenizer_config.json" in refusal(ten(llm_path=str(folder)))


def test_what_has_no_room_in_a_prompt_is_an_early_error(ten, checkpoint):
    with pytest.raises(InputError, match="max_prompt_length is 20, a prompt without titles has"):
        check_llm(ten(llm_path=checkpoint("llama"), max_prompt_length=20))
    with pytest.raises(InputError, match="LlamaForCausalLM has no module 'c_attn'"):
        check_llm(ten(llm_path=checkpoint("llama"), lora_target_modules=["c_attn"]))


def test_what_is_no_title_is_cut(ten, checkpoint):
    config = ten(llm_path=checkpoint("llama"), max_prompt_length=300)
    encoder = SampleEncoder(load_tokenizer(config["llm_path"]), config, ["", "Alpha", "x" * 100_000])
    response = encoder.response(2)
    assert len(response) == 512 and response[-1] == encoder.tokenizer.eos_token_id
    assert encoder.tokenizer.decode(response[:-1]).startswith('"xxx')


def test_llm_dtype_sets_the_weights_type(ten, checkpoint):
    network = load_network(ten(llm_dtype="bfloat16"), checkpoint("llama"))
    assert network.get_base_model().lm_head.weight.dtype == torch.bfloat16


def test_a_device_map_changes_no_score(bigrec):
    scores = []
    for choice in (None, "auto"):
        model, splits = bigrec(llm_device_map=choice)
        samples = CandidateSamples.from_dataset(splits.train)
        interaction = samples.interaction(model.config, np.arange(len(samples)))
        scores.append(model.full_sort_predict(interaction))
    torch.testing.assert_close(*scores)


def test_a_device_map_is_for_one_process(ten, checkpoint, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="llm_device_map: auto is for one process"):
        check_llm(ten(llm_path=checkpoint("llama"), llm_device_map="auto"))
