import shutil

from recbole_dealrec.digest import checkpoint_content, run_name, shared_name


def test_a_checkpoint_is_known_by_its_content(ten, checkpoint, tmp_path):
    from recbole_dealrec.data import load_splits

    folder = tmp_path / "here"
    shutil.copytree(checkpoint("llama"), folder)
    config = ten(llm_path=str(folder))
    splits = load_splits(config)
    before = run_name(config, splits), shared_name(config, splits)

    moved = shutil.copytree(folder, tmp_path / "there")
    config = ten(llm_path=str(moved))
    assert (run_name(config, splits), shared_name(config, splits)) == before

    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = run_name(config, splits), shared_name(config, splits)
    assert after[0] != before[0] and after[1] != before[1]


def test_a_downloaded_checkpoint_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    assert checkpoint_content("owner/model") == "owner/model@c0ffee"
    assert checkpoint_content("owner/other") == "owner/other"


def test_names_of_what_is_built_stay_names():
    assert (checkpoint_content("tiny"), checkpoint_content("tfidf")) == ("tiny", "tfidf")
