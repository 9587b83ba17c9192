"""Folders that one run works in at a time, and that all its processes see."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.store import opening
from recbole_dealrec.store.opening import discard_unfinished, opened, process_folder, synchronize
from recbole_dealrec.store.run_folder import UNFINISHED, RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from recbole_dealrec.store.opening import opened
with opened(Path(sys.argv[1])) as run:
    print("open", flush=True)
    time.sleep(1.5)
    run.output_json("held.json", 1)
"""


def hold(folder):
    """A process that has opened the folder; it works from the checkout, so that the package is found."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout.readline() == b"open\n"
    return process


def test_a_second_process_waits_for_the_first(tmp_path, caplog):
    caplog.set_level("INFO")
    with hold(tmp_path / "run"), opened(tmp_path / "run") as second:
        assert second.has("held.json")
    assert caplog.messages[0] == f"another process is working in {tmp_path / 'run'}; waiting until it ends"


def test_a_killed_process_holds_no_lock(tmp_path):
    with hold(tmp_path) as first:
        first.kill()
    with opened(tmp_path) as run:
        assert not run.has("held.json")


def test_a_folder_is_free_when_the_block_ends_however_it_does(tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "run"):
        raise KeyboardInterrupt
    process = hold(tmp_path / "run")
    process.kill()
    process.wait()


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^checkpoint_dir '.*/file': no folder can be made in it \(Not a directory\)"):
        with opened(tmp_path / "file" / "run"):
            pass


def test_a_process_that_is_not_the_main_one_keeps_its_own_in_a_folder_of_its_own(tmp_path):
    main, other = RunFolder(tmp_path), RunFolder(tmp_path, written=False)
    assert process_folder(main) is main
    process_folder(other).output_json(f"x{UNFINISHED}", 1)
    assert process_folder(other).has(f"x{UNFINISHED}") and not main.has(f"x{UNFINISHED}")
    main.output_json(f"x{UNFINISHED}", 0)
    discard_unfinished(other)
    assert process_folder(other).has(f"x{UNFINISHED}")  # the main process removes it
    discard_unfinished(main)
    assert [path.name for path in tmp_path.iterdir()] == ["checksums.json"]


def _told(path):
    with processes.process_group(cpu=True), opened(path) as folder:
        before = folder.has("a.json")
        folder.output_json("a.json", processes.rank())
        synchronize(folder)
        own = process_folder(folder)
        own.output_json(f"own{UNFINISHED}", processes.rank())
        processes.gather(None)
        found = before, folder.read_json("a.json"), own.read_json(f"own{UNFINISHED}")
        discard_unfinished(folder)
        return found


def test_what_the_main_process_writes_all_see(together, tmp_path):
    assert together(2, _told, tmp_path / "run") == [(False, 0, 0), (False, 0, 1)]
    assert together(2, _told, tmp_path / "run") == [(True, 0, 0), (True, 0, 1)]
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name[0] != ".") == [
        "a.json", "checksums.json",
    ]  # fmt: skip


def _discarded(path):
    with processes.process_group(cpu=True), opened(path) as folder, pytest.MonkeyPatch.context() as patch:
        remove = opening.shutil.rmtree
        patch.setattr(opening.shutil, "rmtree", lambda path, **named: time.sleep(0.5) or remove(path, **named))
        process_folder(folder).output_json(f"done{UNFINISHED}", 1)
        processes.gather(None)
        discard_unfinished(folder, "done")
        process_folder(folder).output_json(f"next{UNFINISHED}", 2)
        processes.gather(None)
        own = process_folder(folder)
        return own.has(f"done{UNFINISHED}"), own.read_json(f"next{UNFINISHED}")


def test_what_a_process_keeps_next_is_not_removed_with_what_is_done(together, tmp_path):
    assert together(2, _discarded, tmp_path / "run") == [(False, 2), (False, 2)]


def test_unfinished_outputs_of_other_beginnings_stay(tmp_path):
    main = RunFolder(tmp_path)
    own = process_folder(RunFolder(tmp_path, written=False))
    for folder in (main, own):
        for name in ("influence-0", "el2n"):
            folder.output_json(name + UNFINISHED, 1)
    discard_unfinished(main, "el2n")
    for folder in (RunFolder(tmp_path), process_folder(RunFolder(tmp_path, written=False))):
        assert folder.has(f"influence-0{UNFINISHED}") and not folder.has(f"el2n{UNFINISHED}")


def _unseen(path):
    with processes.process_group(cpu=True):
        with pytest.raises(InputError, match="process 1 does not see") if not processes.is_main() else opened(path):
            if not processes.is_main():
                with opened(path / "not mounted"):
                    pass
    return True


def test_a_process_that_does_not_see_the_folder_says_so(together, tmp_path):
    assert together(2, _unseen, tmp_path / "run") == [True, True]
