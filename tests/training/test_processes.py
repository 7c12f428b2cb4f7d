"""Two processes under torchrun train the same network as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import config, digits, small, weights

from sonet.solvers import Adaptive
from sonet.training import fit, load_model

SCRIPT = """
import sys
from pathlib import Path
import torch
try:
    torch.distributed.init_process_group("gloo")
except Exception as error:
    print("NO-GLOO", error)
    sys.exit(0)
sys.path.insert(0, sys.argv[1])
from small_runs import config, digits, small
from sonet.solvers import Adaptive, paper
from sonet.training import TrainingError, fit

fit(small(solver=Adaptive(rtol=0.1, atol=0.1)), digits().train.take(40), config(), run=Path(sys.argv[2]))
try:
    fit(small(solver=paper()), digits().train.take(40), config(), run=Path(sys.argv[2] + "-paper"))
except TrainingError as error:
    Path(sys.argv[2] + f"-refused-{torch.distributed.get_rank()}").write_text(str(error))
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_what_one_trains_and_shared_steps_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "NO-GLOO" in done.stdout:
        pytest.skip(f"gloo cannot start here: {done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        refused = (tmp_path / f"run-refused-{rank}").read_text()
        assert refused.startswith("step sizes are shared within a batch, and 2 processes")
    assert not (tmp_path / "run-paper").exists()
    alone = small(solver=Adaptive(rtol=0.1, atol=0.1))
    fit(alone, digits().train.take(40), config())
    # The mean over two equal halves is the mean over the whole, but for rounding.
    for key, value in weights(load_model(tmp_path / "run")).items():
        torch.testing.assert_close(value, alone.state_dict()[key], rtol=1e-4, atol=1e-5)
