"""The same run twice on one machine ends in the same weights, to the last bit."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "use_vllm",
    [
        pytest.param(True, id="vllm", marks=pytest.mark.slow),
        pytest.param(False, id="transformers", marks=pytest.mark.long),
    ],
)
def test_the_same_run_twice_gives_bitwise_equal_weights(tiny_model_dir, tmp_path, use_vllm):
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    hashes = {weights_hash(tiny_model_dir)}
    for run in ("first", "second"):
        options = json.dumps({"max_steps": 3, "use_vllm": use_vllm})
        command = [sys.executable, str(tests / "training.py"), str(tiny_model_dir), str(tmp_path / run), options]
        (tmp_path / run).mkdir()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        hashes.add(weights_hash(tmp_path / run))
    assert len(hashes) == 2  # the start, and one end
