import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "run_recbole_dealrec.py"


def test_the_process_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n_group", "50"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: unknown configuration key 'n_group'; did you mean 'n_groups'?"
    )
