"""A recipe that is killed, or told to stop, and started again ends with the weights of one that was left alone."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from recipe_commands import ENVIRONMENT, RECIPES, command, finish
from safetensors.torch import load_file


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
    if run == "cold-start":
        code, said = interrupt(arguments, tmp_path, signal.SIGINT)
        assert code == 130
        assert said.count("Stopped by Ctrl-C: ") == 1
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
