import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

SCRIPT = Path(__file__).parents[2] / "examples" / "distributed" / "fsdp2_muon.py"


def run(processes: int, *args: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(SCRIPT), *args, "--steps", "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_losses_go_on_in_another_number_of_processes(tmp_path):
    saved = run(2, "--save", str(tmp_path))
    losses = [float(x) for x in re.findall(r"loss (\S+)", saved)]
    assert losses[-1] < losses[0] - 0.5
    for processes in (1, 4):
        apart = re.search(r"by at most (\S+)", run(processes, "--resume", str(tmp_path)))
        assert float(apart[1]) < 1e-5
