from pathlib import Path

import pytest

from recbole_dealrec.store.latest import named_folder, point_latest


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request, monkeypatch):
    def refused(self, *_, **__):
        raise OSError("no links here")

    if not request.param:
        monkeypatch.setattr(Path, "symlink_to", refused)
    return request.param


def test_latest_points_to_the_last_folder_wherever_it_is_moved(links, tmp_path):
    saved = tmp_path / "saved"
    for name in ("first", "second"):
        (saved / name).mkdir(parents=True)
        (saved / name / "name.txt").write_text(name)
        point_latest(saved / name)
        assert (named_folder(saved / "latest") / "name.txt").read_text() == name
    moved = saved.rename(tmp_path / "moved")
    assert (named_folder(moved / "latest") / "name.txt").read_text() == "second"
    assert (moved / "latest").is_symlink() == links
    assert {path.name for path in moved.iterdir()} == {"first", "second", "latest"}


def test_any_other_path_is_itself(tmp_path):
    assert named_folder(tmp_path / "run") == tmp_path / "run"


def test_a_folder_named_latest_is_left_alone(tmp_path, caplog):
    (tmp_path / "latest").mkdir()
    (tmp_path / "run").mkdir()
    point_latest(tmp_path / "run")
    assert (tmp_path / "latest").is_dir() and not (tmp_path / "latest").is_symlink()
    assert "latest: is a folder, not a link" in caplog.text
