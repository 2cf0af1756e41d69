"""A training run in W&B and trackio: real recipes, and what their offline files hold."""

import io
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from recipe_commands import ENVIRONMENT, command
from training import lengths_differ, tiny_trainer
from wandb_files import find_run_files, read_config, read_history, read_run_id
from wandb_server import serve_until_the_first_upload

from emor3_trl.evaluation import tracking as evaluation_tracking
from emor3_trl.report.metrics_page import find_metric
from emor3_trl.upkeep.completions_table import IMAGE_SIDE, choose_rows, shrink_image

WITHOUT_KEY = {**ENVIRONMENT, "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
for _name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "TRACKIO_DIR"):
    WITHOUT_KEY.pop(_name, None)
# What a table shows of a completion: image, steps, answer, both answers of the reflection, rewards, advantage
SHOWN = {
    "group", "image", "emotion", "trigger", "feeling", "conclusion", "answer", "consistency_answer",
    "coherence_answer", "accuracy_reward", "consistency_reward", "coherence_reward", "format_reward", "advantage",
    "completion",
}  # fmt: skip


def report_both(arguments: list[str], folder: Path, **settings: object) -> list[str]:
    """Return a recipe's command with a configuration that reports to W&B and trackio."""
    config = folder / "both.yaml"
    values = yaml.safe_load(Path(arguments[arguments.index("--config") + 1]).read_text())
    config.write_text(yaml.safe_dump({**values, "report_to": ["wandb", "trackio"]}))
    arguments = list(arguments)
    arguments[arguments.index("--config") + 1] = str(config)
    place = arguments.index("--report_to")
    arguments[place : place + 2] = []
    return [*arguments, *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]


def run(arguments: list[str], folder: Path, **variables: str) -> str:
    """Run a command without an account, and return what it prints."""
    done = subprocess.run(
        arguments, cwd=folder, env={**WITHOUT_KEY, **variables}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def stop_after_checkpoint(arguments: list[str], folder: Path) -> None:
    """Start a command and end it by SIGTERM once it has saved a checkpoint."""
    with subprocess.Popen(
        arguments, cwd=folder, env=WITHOUT_KEY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        limit = time.monotonic() + 200
        while not list(folder.glob("*/checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said[-3000:]


def read_trackio(folder: Path) -> list[tuple[str, int, dict]]:
    """Return run, step and metrics of every entry of a database."""
    with sqlite3.connect(folder / "emor3_trl.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    return [(name, step, json.loads(metrics)) for name, step, metrics in rows]


@pytest.fixture(scope="module")
def resumed_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GRPO run that reports to both, was stopped, and went on."""
    folder = tmp_path_factory.mktemp("tracked")
    arguments = report_both(
        command(folder, "grpo", tiny_model_dir, "run"), folder, use_vllm="false", log_completions_steps=3,
         max_steps=16,
    )  # fmt: skip
    stop_after_checkpoint(arguments, folder)
    assert "resuming from checkpoint-" in run(arguments, folder)
    return folder / "run"


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_the_same_run_of_wandb(resumed_run: Path) -> None:
    files = find_run_files(resumed_run)
    assert len(files) == 2
    run_id = json.loads((resumed_run / "tracking.json").read_text())["run_id"]
    assert {read_run_id(file) for file in files} == {run_id}
    before, after = (read_history(file) for file in files)
    assert max(entry["_step"] for entry in before) < min(entry["_step"] for entry in after)
    steps = [entry["train/global_step"] for entry in (*before, *after) if "train/reward" in entry]
    assert sorted(set(steps)) == list(range(1, 17))


@pytest.mark.slow
def test_wandb_is_told_the_configuration_the_versions_and_the_data(resumed_run: Path) -> None:
    for file in find_run_files(resumed_run):
        config = read_config(file)
        environment = json.loads((resumed_run / "environment.json").read_text())
        assert config["resolved"] == yaml.safe_load((resumed_run / "config.yaml").read_text())
        assert config["versions"] == environment["versions"]
        assert config["sources"] == environment["sources"]
        assert config["sources"]["training data"]


@pytest.mark.slow
def test_all_that_wandb_and_trackio_show_is_documented_and_the_same(resumed_run: Path) -> None:
    history = [entry for file in find_run_files(resumed_run) for entry in read_history(file)]
    in_wandb = {key for entry in history for key in entry if not key.startswith(("_", "completions."))}
    in_trackio = {key for _, _, metrics in read_trackio(resumed_run / "trackio") for key in metrics}
    assert in_trackio - {"completions"} == in_wandb
    names = [key.removeprefix("train/") for key in in_wandb - {"train/global_step"}]
    assert len(names) > 30
    assert [name for name in names if find_metric(name) is None] == []


@pytest.mark.slow
def test_a_table_holds_whole_completions_with_small_images_and_stays_bounded(resumed_run: Path) -> None:
    tables = sorted(resumed_run.rglob("completions*.table.json"))
    logged = [entry for file in find_run_files(resumed_run) for entry in read_history(file)]
    assert len(tables) == sum("completions._type" in entry for entry in logged) in (6, 7)  # of 16 steps, and a resume
    for file in tables:
        table = json.loads(file.read_text())
        assert set(table["columns"]) >= SHOWN
        assert len(table["data"]) == 4
        assert len({row[table["columns"].index("group")] for row in table["data"]}) == 1
    shown = [
        metrics["completions"] for _, _, metrics in read_trackio(resumed_run / "trackio") if "completions" in metrics
    ]
    assert len(shown) == len(tables)
    for table in shown:
        assert set(table["_value"][0]) >= SHOWN
        image = resumed_run / "trackio" / "media" / table["_value"][0]["image"]["file_path"]
        assert max(Image.open(image).size) <= IMAGE_SIDE


@pytest.mark.slow
def test_trackio_keeps_one_run_in_the_folder_and_goes_on_with_it(resumed_run: Path) -> None:
    entries = read_trackio(resumed_run / "trackio")
    assert len({name for name, _, _ in entries}) == 1
    steps = [metrics["train/global_step"] for _, _, metrics in entries if "train/reward" in metrics]
    assert sorted(set(steps)) == list(range(1, 17))


@pytest.fixture
def dropping_server() -> Iterator[tuple[str, list[float]]]:
    """The address of a server that takes every connection and drops it, and when each came."""
    connections: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(time.monotonic())
                connection.close()

        threading.Thread(target=drop, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", connections


@pytest.mark.slow
def test_a_server_that_drops_connections_does_not_keep_a_run_from_finishing(
    tiny_model_dir: Path, tmp_path: Path, dropping_server: tuple[str, list[float]]
) -> None:
    address, connections = dropping_server
    arguments = report_both(command(tmp_path, "cold-start", tiny_model_dir, "run"), tmp_path, max_steps=2)
    said = run(arguments, tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=address, WANDB_INIT_TIMEOUT="4")
    assert len(connections) > 1  # it tried
    assert "W&B is offline (" in said
    assert "'wandb sync' sends the run later." in said
    assert (tmp_path / "run" / "metrics.json").is_file()
    (file,) = (file for file in find_run_files(tmp_path / "run") if "offline-run-" in str(file))
    assert any("train/loss" in entry for entry in read_history(file))


@pytest.mark.slow
def test_a_network_that_is_lost_while_a_run_trains_neither_stops_it_nor_takes_its_numbers(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with serve_until_the_first_upload() as (address, asked):
        arguments = report_both(command(tmp_path, "cold-start", tiny_model_dir, "run"), tmp_path, max_steps=4)
        run(arguments, tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=address, WANDB_FINISH_TIMEOUT="3")
    assert "UpsertBucket" in asked  # the run began online
    assert asked.count("file_stream") == 1  # and then nothing answered
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 4
    (file,) = find_run_files(tmp_path / "run")
    assert [entry["train/loss"] for entry in read_history(file) if "train/loss" in entry] == losses


def log_what_fits_no_column(completions: list, log_extra: Callable, **_: object) -> list[float]:
    """A reward that logs what W&B refuses to hold in one column."""
    log_extra("details", [{"a": 1} if row % 2 else {"b": "text"} for row in range(len(completions))])
    return lengths_differ(completions)


@pytest.mark.slow
def test_a_table_that_wandb_refuses_does_not_end_a_run(tiny_model_dir, tmp_path, monkeypatch, caplog) -> None:
    import wandb

    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    options = {"use_vllm": False, "max_steps": 2, "log_completions_steps": 1, "num_completions_to_print": 0}
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=log_what_fits_no_column, report_to=["wandb"], log_completions=True,
        **options,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "emor3_trl"):
        trainer.train()
    wandb.finish()
    wandb.teardown()
    told = [record.getMessage() for record in caplog.records if "took no table of completions" in record.getMessage()]
    assert [line[:13] for line in told] == ["Step 1: wandb", "Step 2: wandb"]
    assert len(list((tmp_path / "completions").glob("*.parquet"))) == 2
    (file,) = find_run_files(tmp_path)
    assert sum("train/reward" in entry for entry in read_history(file)) == 2


def test_a_mode_that_wandb_does_not_know_is_one_line(tiny_model_dir, tmp_path) -> None:
    arguments = report_both(command(tmp_path, "cold-start", tiny_model_dir, "run"), tmp_path, max_steps=1)
    done = subprocess.run(
        arguments, cwd=tmp_path, env={**WITHOUT_KEY, "WANDB_MODE": "nonsense"}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_shows_whole_groups() -> None:
    assert choose_rows([5, 5, 6, 6, 7, 7], 5) == [0, 1, 2, 3]
    assert choose_rows([0] * 8, 3) == [0, 1, 2]
    assert choose_rows([], 3) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_worst_image_stays_small(mode: str) -> None:
    noise = Image.frombytes("RGB", (1000, 700), os.urandom(1000 * 700 * 3)).convert(mode)
    file = io.BytesIO()
    shrink_image(noise).save(file, format="png")
    assert len(file.getvalue()) < 60_000


def test_the_confusion_that_wandb_draws_counts_every_answer() -> None:
    from emor3_trl.evaluation.prediction import read_completion

    answers = ["awe", "fear", None, "awe"]
    rows = [
        read_completion({"id": str(i), "emotion": "awe", "label_space": ["awe", "fear"]}, "toons",
                        rf"\boxed{{{answer}}}" if answer else "none")
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    table = evaluation_tracking.draw_confusion(rows).table
    counts = {(actual, predicted): count for actual, predicted, count in table.data if count}
    assert counts == {("awe", "awe"): 2, ("awe", "fear"): 1, ("awe", "no answer"): 1}
