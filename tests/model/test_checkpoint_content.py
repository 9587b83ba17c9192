"""What tells a checkpoint from any other."""

from recbole_dealrec.model.checkpoint import checkpoint_content


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
