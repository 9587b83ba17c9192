"""Language models in GGUF files, written by the package gguf's own writer."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_dealrec.data import load_splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec import gguf as own_gguf
from recbole_dealrec.model.bigrec.llm import check_llm, load_tokenizer
from recbole_dealrec.model.checkpoint import checkpoint_content


@pytest.fixture
def file(checkpoint, write_gguf, tmp_path):
    return write_gguf(checkpoint("llama"), tmp_path / "tiny.F32.gguf")


def test_the_folder_gives_the_logits_and_tokens_of_the_original(checkpoint, file, tmp_path):
    folder = own_gguf.gguf_folder(file, tmp_path / "saved")
    assert folder.parent == tmp_path / "saved" and folder.name.startswith("tiny.F32-")
    original, unpacked = (AutoModelForCausalLM.from_pretrained(path) for path in (checkpoint("llama"), folder))
    ids = torch.arange(1, 33).view(2, 16)
    torch.testing.assert_close(unpacked(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    text = '"Alpha", "Beta"\nA user has chosen the items below'
    tokens = [load_tokenizer(path)(text)["input_ids"] for path in (checkpoint("llama"), file, str(folder))]
    assert tokens[0] == tokens[1] == tokens[2]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<end>"


def test_a_file_is_unpacked_once_and_known_by_its_content(file, tmp_path, monkeypatch):
    folder = own_gguf.gguf_folder(file, tmp_path / "saved")
    elsewhere = tmp_path / "elsewhere" / "tiny.F32.gguf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(Path(file).read_bytes())
    monkeypatch.setattr(own_gguf, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert own_gguf.gguf_folder(str(elsewhere), tmp_path / "saved") == folder
    assert checkpoint_content(str(elsewhere)) == checkpoint_content(file)
    elsewhere.write_bytes(Path(file).read_bytes() + b"\0")
    assert checkpoint_content(str(elsewhere)) != checkpoint_content(file)


def test_a_recommender_on_a_file_saves_an_adapter_that_peft_loads(ten, file, tmp_path):
    config = ten(llm_path=file, checkpoint_dir=str(tmp_path / "saved"))
    BIGRec.check(config)
    model = BIGRec(config, load_splits(config).train)
    model.save(tmp_path / "adapter")
    base = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).is_dir()
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")


def test_what_cannot_be_used_is_told_before_anything_is_unpacked(
    ten, checkpoint, write_gguf, file, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match="no.gguf': no such file"):
        check_llm(ten(llm_path=str(tmp_path / "no.gguf")))
    with pytest.raises(InputError, match="lora_target_modules: LlamaForCausalLM has no module 'query'"):
        check_llm(ten(llm_path=file, lora_target_modules=["query"]))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(Path(file).read_bytes()[:300])
    with pytest.raises(InputError, match="broken.gguf': file; cannot be loaded: "):
        check_llm(ten(llm_path=str(broken)))
    with pytest.raises(InputError, match="strange.gguf': file; cannot be loaded: "):
        check_llm(ten(llm_path=write_gguf(checkpoint("llama"), tmp_path / "strange.gguf", architecture="strange")))
    monkeypatch.setattr(own_gguf, "is_gguf_available", lambda: False)
    with pytest.raises(InputError, match="needs the package gguf: pip install gguf"):
        check_llm(ten(llm_path=file))


def test_a_file_without_some_weights_is_refused(checkpoint, write_gguf, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    lacking = write_gguf(checkpoint("llama"), tmp_path / "part.gguf", left_out=[name])
    with pytest.raises(InputError, match=f"use another; this one lacks 1 weights, such as {name}"):
        own_gguf.gguf_folder(lacking, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*"))
