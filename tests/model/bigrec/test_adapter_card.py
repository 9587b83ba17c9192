from pathlib import Path

from recbole_dealrec.model.bigrec.adapter_card import adapter_card
from recbole_dealrec.model.checkpoint import checkpoint_content


def test_a_model_of_the_hub_is_named_as_the_hub_links_it(ten):
    about = adapter_card(ten(llm_path="someone/some-model", llm_quantization="4bit"), Path("adapter"))
    assert about["metadata"]["base_model"] == "someone/some-model"
    assert "`someone/some-model`, quantised to 4bit" in about["origin"]
    assert "AutoPeftModelForCausalLM" in about["code"]


def test_a_folder_is_named_without_its_place_by_its_content(ten, checkpoint):
    folder = checkpoint("llama")
    about = adapter_card(ten(llm_path=folder), Path("adapter"))
    assert "base_model" not in about["metadata"] and folder not in str(about)
    assert f"`{Path(folder).name}` (SHA-256 `{checkpoint_content(folder)}`)" in about["origin"]


def test_the_prompt_is_the_one_of_the_run(ten):
    texts = {"prompt_instruction": "Name a {noun}.", "prompt_input": "After {history}", "prompt_layout": "{input} ->"}
    keys = {"llm_path": "someone/some-model", "prompt_noun": "film", **texts}
    prompt = adapter_card(ten(**keys), Path("adapter"))["prompt"]
    assert prompt.startswith('After "Title of an earlier item", "Title of the latest item" ->"Title of the next')
    del keys["prompt_layout"]
    chat = adapter_card(ten(chat_template=True, **keys), Path("adapter"))["prompt"]
    assert "system: Name a film.\nuser: After" in chat and 'assistant: "Title of the next item"' in chat
