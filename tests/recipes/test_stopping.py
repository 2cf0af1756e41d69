"""A recipe that is killed, or told to stop, and started again ends with the weights of one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import tiny_pictures

from emor3_trl.data import write_split

ROOT = Path(__file__).parents[2]
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # set by earlier tests' trainers
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
COMMON = {"learning_rate": 0.001, "save_steps": 4, "save_total_limit": 2, "report_to": "none", "disable_tqdm": "true"}
GRPO = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12, "max_steps": 24}
COLD_START = {"per_device_train_batch_size": 2, "num_samples": 6, "max_steps": 60, "save_strategy": "steps"}
COLD_START |= {"probe_samples": 2, "probe_max_tokens": 4, "eval_split": "train"}
RECIPES = {
    "grpo": ("grpo.py", "emo_r3.yaml", COMMON | GRPO),
    "cold-start": ("cold_start.py", "cold_start.yaml", COMMON | COLD_START),
}


def command(folder: Path, run: str, model: Path, output: str, processes: int = 1) -> list[str]:
    """Write the data where it is not, and return the command of a recipe."""
    if not (folder / "data").exists():
        labels = ["awe", "fear"]
        write_split(folder / "data", "train", [
            {"id": str(i), "image": picture, "emotion": labels[i % 2], "label_space": labels, "source": "test"}
            for i, picture in enumerate(tiny_pictures(8))
        ])  # fmt: skip
    recipe, config, settings = RECIPES[run]
    settings |= {"data": folder / "data", "model_name_or_path": model, "output_dir": folder / output}
    settings |= {"processes": processes}
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    return [
        sys.executable, *launcher, str(ROOT / "recipes" / recipe),
        "--config", str(ROOT / "recipes" / "configs" / "demo" / config),
        *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
    ]  # fmt: skip


def finish(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def interrupt(arguments: list[str], folder: Path, by: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal when it has saved a checkpoint, and return its exit code and output."""
    before = set(folder.glob("*/checkpoint-*/trainer_state.json"))
    with subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        limit = time.monotonic() + 300
        while not set(folder.glob("*/checkpoint-*/trainer_state.json")) - before:
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(by)
        said = process.communicate(timeout=120)[0]
    assert not (folder / "stopped" / "metrics.json").exists(), "it was over before the signal came"
    return process.returncode, said


def assert_same_weights(one: Path, other: Path) -> None:
    files = sorted(file.relative_to(one) for file in one.rglob("*.safetensors") if "checkpoint-" not in str(file))
    assert files
    for file in files:
        weights, expected = load_file(other / file), load_file(one / file)
        assert weights.keys() == expected.keys()
        assert [name for name, weight in expected.items() if not torch.equal(weight, weights[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("run", RECIPES)
def test_a_run_that_was_told_to_stop_and_then_killed_ends_as_one_that_was_not(tmp_path, tiny_model_dir, run):
    finish(command(tmp_path, run, tiny_model_dir, "whole"), tmp_path)
    arguments = command(tmp_path, run, tiny_model_dir, "stopped")
    code, said = interrupt(arguments, tmp_path, signal.SIGTERM)
    assert code == 143
    assert said.count("Stopped by SIGTERM: ") == 1
    assert "Traceback" not in said
    code, said = interrupt(arguments, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "resuming from checkpoint-" in said
    assert "resuming from checkpoint-" in finish(arguments, tmp_path).stdout
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_together(tmp_path, tiny_model_dir):
    run = "grpo"
    finish(command(tmp_path, run, tiny_model_dir, "whole", processes=2), tmp_path)
    arguments = command(tmp_path, run, tiny_model_dir, "stopped", processes=2)
    _, said = interrupt(arguments, tmp_path, signal.SIGTERM)  # torchrun hands it on
    assert said.count("Stopped by SIGTERM: ") == 1
    alone = subprocess.run(
        command(tmp_path, run, tiny_model_dir, "stopped"), cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert alone.returncode == 2
    assert "was saved by 2 process(es), and this launch has 1" in alone.stderr
    assert "resuming from checkpoint-" in finish(arguments, tmp_path).stdout
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
