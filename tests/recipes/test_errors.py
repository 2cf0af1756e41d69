"""recipes/grpo.py as a user starts it: one clear line and exit code 2 for a mistake, no traceback, no model loaded."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forking import run_forked
from recipe_commands import RecipeRunner, command
from tiny_model import tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.run.folder import RunFolder

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "recipes" / "configs" / "demo" / "emo_r3.yaml")


GRPO = [sys.executable, str(ROOT / "recipes" / "grpo.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def grpo(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_forked([*GRPO, *arguments], folder, ENVIRONMENT, timeout=300)


@pytest.fixture
def run_grpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RecipeRunner:
    return RecipeRunner("grpo", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--config", DEMO, "--lambda_1", "0.2"], "Did you mean '--lambda1'?", id="unknown flag"),
        pytest.param(["--config", DEMO, "--data", "nowhere"], "nowhere", id="missing data"),
        pytest.param(["--config", DEMO, "--num_generations", "5"], "--num_generations 4 or 8", id="no whole groups"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    run_grpo: RecipeRunner, tmp_path: Path, tiny_model_dir: Path, arguments: list[str], expected: str
) -> None:
    result = run_grpo(tmp_path, *arguments, "--model_name_or_path", str(tiny_model_dir))
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    error = [line for line in result.stderr.splitlines() if line.startswith("grpo.py: error: ")]
    assert len(error) == 1
    assert expected in error[0]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = grpo(tmp_path, "--config", DEMO, "--nonsense", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_bare_call_without_a_gpu_names_the_demo(tmp_path: Path) -> None:
    result = grpo(tmp_path, "--nonsense")
    assert "configs/demo/emo_r3.yaml (no GPU here)" in result.stdout


def test_bare_call_continues_from_a_finished_cold_start(tmp_path: Path) -> None:
    (tmp_path / "runs/demo/cold_start").mkdir(parents=True)
    (tmp_path / "runs/demo/cold_start/metrics.json").write_text("{}")
    assert "configs/demo/emo_r3_cold_start.yaml" in grpo(tmp_path, "--nonsense").stdout


def test_plan_stops_without_a_model(run_grpo: RecipeRunner, tmp_path: Path) -> None:
    config = ROOT / "recipes" / "configs" / "qwen2_5_vl_3b" / "emoset_emo_r3.yaml"
    result = run_grpo(tmp_path, "--config", str(config), "--plan")
    assert result.returncode == 0, result.stderr
    assert "512 prompts x 8 completions" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_plan_counts_rows_and_decodes_no_image(run_grpo: RecipeRunner, tmp_path: Path, tiny_model_dir: Path) -> None:
    """No image of this data could be decoded."""
    row = {"image": b"no image", "emotion": "awe", "label_space": ["awe", "fear"], "source": "test"}
    write_split(tmp_path / "data", "train", [{**row, "id": str(number)} for number in range(70)])
    arguments = ["--data", str(tmp_path / "data"), "--model_name_or_path", str(tiny_model_dir), "--plan"]
    for limit, expected in (([], "70 samples of train"), (["--max_samples", "64"], "64 samples of train")):
        result = run_grpo(tmp_path, "--config", DEMO, *arguments, *limit)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


def training_arguments(folder: Path, model: Path) -> list[str]:
    """Write eight rows into `folder`, and return the arguments of four short steps on them."""
    labels = ["awe", "fear"]
    rows = [
        {"id": str(i), "image": picture, "emotion": labels[i % 2], "label_space": labels, "source": "test"}
        for i, picture in enumerate(tiny_pictures(8))
    ]
    write_split(folder / "data", "train", rows)
    settings = {
        "data": folder / "data",
        "model_name_or_path": model,
        "output_dir": folder / "run",
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 4,
        "learning_rate": 0.001,
        "save_steps": 1,
        "save_total_limit": 3,
        "use_vllm": "false",
        "report_to": "none",
    }
    return ["--config", DEMO, *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]


def test_fewer_rows_than_a_rollout_takes_are_refused_before_a_model_loads(
    run_grpo: RecipeRunner, tmp_path: Path, tiny_model_dir: Path
) -> None:
    arguments = training_arguments(tmp_path, tiny_model_dir)
    result = run_grpo(tmp_path, *arguments, "--max_samples", "3", "--per_device_train_batch_size", "16")
    assert result.returncode == 2, result.stdout
    assert "3 samples do not fill one rollout of 4 prompts" in result.stderr
    assert not (tmp_path / "run").exists()


def test_held_out_images_are_asked_about_while_training(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = [*training_arguments(tmp_path, tiny_model_dir), "--validation_steps", "2"]
    missing = grpo(tmp_path, *arguments, "--validation_splits", "train", "elsewhere/test")
    assert missing.returncode == 2, missing.stdout
    assert "There is no data folder elsewhere" in missing.stderr
    assert not (tmp_path / "run").exists()
    shutil.copy(tmp_path / "data" / "train.parquet", tmp_path / "data" / "test.parquet")
    splits = ["train", "data/test"]
    result = grpo(tmp_path, *arguments, "--validation_splits", *splits, "--validation_samples", "3")
    assert result.returncode == 0, result.stderr
    for step in (0, 2, 4):
        assert re.search(rf"Step {step}: train accuracy 0\.\d+, .*, data_test accuracy", result.stdout)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best/step"] in (0, 2, 4)
    assert f"Best on validation: {metrics['best/accuracy']:.3f}" in result.stdout


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = training_arguments(tmp_path, tiny_model_dir)
    RunFolder(tmp_path / "run", {}).begin()  # this process holds its lock until the metrics are written
    result = grpo(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert "grpo.py: error: Another run is writing to output_dir" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_does_not_answer_is_told_before_a_finished_run_is_overwritten(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = command(tmp_path, "grpo", tiny_model_dir, "run")[2:]
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "metrics.json"):
        (tmp_path / "run" / name).write_text("{}")
    server = ["--vllm_mode", "server", "--vllm_server_base_url", "http://127.0.0.1:9", "--vllm_server_timeout", "0"]
    result = RecipeRunner("grpo", monkeypatch, capsys)(tmp_path, *options, *server, "--overwrite")
    assert "no vLLM server answers at http://127.0.0.1:9" in result.stderr
    assert result.returncode == 1
    assert {"config.yaml", "metrics.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.long
def test_two_ranks_share_a_folder(tmp_path: Path, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", GRPO[1]]
    arguments = [*training_arguments(tmp_path, tiny_model_dir), "--processes", "2"]
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in launched} | {"OMP_NUM_THREADS": "1"}
    for expected in ("trained", "already finished"):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("already finished") == (expected == "already finished")
    environment_file = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment_file["processes"] == 2
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_killed_run_resumes_and_a_finished_one_is_left_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = training_arguments(tmp_path, tiny_model_dir)
    with subprocess.Popen([*GRPO, *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 150
        while not (tmp_path / "run" / "checkpoint-1" / "trainer_state.json").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run" / "metrics.json").exists()

    other = grpo(tmp_path, *arguments, "--learning_rate", "0.1")
    assert other.returncode == 2
    assert "learning_rate was 0.001, now 0.1" in other.stderr

    resumed = grpo(tmp_path, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from checkpoint-" in resumed.stdout
    weights = (tmp_path / "run" / "model.safetensors").stat()

    again = grpo(tmp_path, *arguments)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert (tmp_path / "run" / "model.safetensors").stat() == weights
