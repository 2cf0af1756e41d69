"""A recipe that is killed, or told to stop, and started again ends with the weights of one that was left alone."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from recipe_commands import ENVIRONMENT, ROOT, command, finish
from safetensors.torch import load_file
from slurm import install_slurm, run_jobs
from tiny_model import tiny_pictures


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


@pytest.mark.parametrize(
    "run", [pytest.param("cold-start", marks=pytest.mark.slow), pytest.param("grpo", marks=pytest.mark.long)]
)
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


@pytest.fixture(scope="module")
def two_processes(tiny_model_dir, tmp_path_factory) -> Path:
    """The folder of a GRPO run in two processes of one launcher, that no one stopped: `whole`."""
    folder = tmp_path_factory.mktemp("two_processes")
    finish(command(folder, "grpo", tiny_model_dir, "whole", processes=2), folder)
    return folder


@pytest.mark.long
def test_two_processes_stop_together_and_go_on_together(tmp_path, tiny_model_dir, two_processes):
    run = "grpo"
    arguments = command(tmp_path, run, tiny_model_dir, "stopped", processes=2)
    _, said = interrupt(arguments, tmp_path, signal.SIGTERM)  # torchrun hands it on
    assert said.count("Stopped by SIGTERM: ") == 1
    alone = subprocess.run(
        command(tmp_path, run, tiny_model_dir, "stopped"), cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert alone.returncode == 2
    assert "was saved by 2 process(es), and this launch has 1" in alone.stderr
    assert "resuming from checkpoint-" in finish(arguments, tmp_path).stdout
    assert_same_weights(two_processes / "whole", tmp_path / "stopped")


def list_recipe_arguments(arguments: list[str]) -> list[str]:
    """Return a command's recipe and what follows, without Python and its launcher."""
    return arguments[next(place for place, part in enumerate(arguments) if "/recipes/" in part) :]


@pytest.mark.long
def test_jobs_of_two_nodes_that_slurm_requeues_end_as_two_processes(tmp_path, tiny_model_dir, two_processes):
    for number, picture in enumerate(tiny_pictures(8)):
        file = tmp_path / "photos" / ("awe", "fear")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    own, output = tmp_path / "own", tmp_path / "requeued"
    cold_start = list_recipe_arguments(command(tmp_path, "cold-start", tiny_model_dir, "cold_start", processes=2))
    stages = {
        "PREPARE": f"recipes/prepare_data.py --dataset own --source {tmp_path}/photos --output_dir {own} "
        "--min_pixels 3136 --max_pixels 12544",
        "COLD_START": " ".join([*cold_start, "--data", str(own), "--max_steps", "2"]),
        "GRPO": " ".join(list_recipe_arguments(command(tmp_path, "grpo", tiny_model_dir, "requeued", processes=2))),
        "EVALUATE": f"recipes/evaluate.py --model {output} --data {own} --engine transformers --max_tokens 8 "
        f"--output_dir {tmp_path}/evaluation",
    }
    slurm = install_slurm(tmp_path / "slurm")
    settings = {"ACCELERATE_FILE": "recipes/accelerate/ddp.yaml", "NODES": "2", "GPUS_PER_NODE": "1"}
    settings["ACCELERATE_OPTIONS"] = "--mixed_precision no"
    environment = {**ENVIRONMENT, **slurm, **stages, **settings}
    submit = ["bash", str(ROOT / "recipes" / "slurm" / "submit.sh"), "--partition", "gpu"]
    submitted = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=60)
    assert submitted.stdout.split() == ["prepare", "1", "cold", "start", "2", "GRPO", "3", "evaluate", "4"]
    signalled = []

    def signal_once(job: dict, process: subprocess.Popen) -> None:
        """Tell GRPO's script that its time is nearly over, as `--signal` does, when there is a checkpoint."""
        assert (job["partition"], job["requeue"]) == ("gpu", True)
        limit = time.monotonic() + 300
        while job["name"] == "emor3-grpo" and not signalled and process.poll() is None:
            if list(output.glob("checkpoint-*/trainer_state.json")):
                assert job["signal"] == "B:USR1@300"
                process.send_signal(signal.SIGUSR1)
                signalled.append(job["id"])
            assert time.monotonic() < limit
            time.sleep(0.02)

    starts = run_jobs(environment, signal_once)
    logs = {file.stem: file.read_text() for file in (tmp_path / "slurm" / "queue").glob("*.log")}
    stopped = starts.pop(2)
    assert stopped.startswith("emor3-grpo: ")
    assert not stopped.endswith(": 0")
    expected = [f"emor3-{stage}: 0" for stage in ("prepare", "cold-start", "grpo", "evaluate")]
    assert starts == expected, logs["emor3-grpo"][-6000:]
    assert logs["emor3-grpo"].count("Stopped by SIGTERM: ") == 1
    assert logs["emor3-grpo"].count("resuming from checkpoint-") == 1
    assert (tmp_path / "evaluation" / "metrics.json").is_file() or list(tmp_path.glob("evaluation/*/metrics.json"))
    assert_same_weights(two_processes / "whole", output)
