"""What a job's script hands to what it starts, with a program in the place of Python and of the launcher."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from recipe_commands import ROOT
from slurm import install_slurm, run_jobs

SAVE_ON_SIGTERM = """[ -e saved ] && exit 0
trap 'touch saved; exit 143' TERM
touch started
for _ in {1..300}; do sleep 0.1; done
"""


def submit(folder: Path, program: str, script: str) -> dict[str, str]:
    """Submit a script to a SLURM whose `python` and `accelerate` are a program; return the variables that need it."""
    environment = {**os.environ, **install_slurm(folder / "slurm")}
    for name in ("python", "accelerate"):
        file = folder / "slurm" / "programs" / name
        file.write_text(f"#!/bin/bash\n{program}")
        file.chmod(0o755)
    command = ["sbatch", "--parsable", str(ROOT / "recipes" / "slurm" / script), "ddp.yaml", "recipe.py"]
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, timeout=60)
    return environment


def test_a_training_whose_time_is_nearly_over_gets_sigterm_and_starts_again(tmp_path: Path) -> None:
    environment = submit(tmp_path, SAVE_ON_SIGTERM, "train.sbatch")

    def signal_once(_job: dict[str, Any], process: subprocess.Popen) -> None:
        limit = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < limit
            time.sleep(0.02)
        if not (tmp_path / "saved").exists():
            process.send_signal(signal.SIGUSR1)

    assert run_jobs(environment, signal_once) == ["emor3-train: 143", "emor3-train: 0"]
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(("script", "cpus"), [("train.sbatch", "64"), ("single.sbatch", "8")])
def test_a_step_gets_the_processors_of_its_job(tmp_path: Path, script: str, cpus: str) -> None:
    environment = submit(tmp_path, 'echo "$SRUN_CPUS_PER_TASK" >cpus', script)
    run_jobs(environment, lambda _job, _process: None)
    assert (tmp_path / "cpus").read_text() == f"{cpus}\n"
