"""recipes/report.py as a user starts it: the files that it writes, and a mistake in one line."""

import importlib.util
import json
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from forking import run_forked
from PIL import Image
from small_run import write_small_run
from tiny_model import tiny_pictures
from written_rollouts import write_rollouts

from emor3_trl.evaluation.metrics import summarise_predictions
from emor3_trl.evaluation.prediction import load_predictions, save_predictions
from emor3_trl.run.recipe import run_recipe

REPO = Path(__file__).parents[2]


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "recipes" / "report.py"), *arguments]
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return run_forked(command, Path.cwd(), environment, timeout=300)


def test_the_report_writes_all_it_promises(tmp_path):
    run = write_small_run(tmp_path)
    result = report(str(run))
    assert result.returncode == 0, result.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["emo_r3"]["in_domain"]["accuracy"] == 0.8
    assert Image.open(run / "rewards.png").height > 200
    for kind, index in (("right", 0), ("changed", 1), ("wrong", 4)):
        saved = Image.open(run / f"example_{kind}.png")
        assert saved.tobytes() == tiny_pictures(5)[index].tobytes()
    assert "EMO-R3#" in result.stdout
    assert "WRONG: picture test-4" in result.stdout
    assert "CHANGED: picture test-1" in (run / "examples.txt").read_text()
    assert "report.html" in result.stdout
    assert "EMO-R3#" in (run / "report.html").read_text()


def test_the_recipe_names_a_missing_folder_without_a_traceback(tmp_path):
    result = report(str(tmp_path / "nothing"))
    assert result.returncode == 2
    assert "There is no folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_completion_controls_the_terminal(tmp_path):
    run = write_small_run(tmp_path)
    for path in (run / "evaluation").glob("*/predictions.parquet"):
        steps = dict.fromkeys(("trigger", "feeling", "conclusion"), "x\x1b[2J")
        rows = [replace(row, completion="x\x1b[2J", **steps) for row in load_predictions(path)]
        save_predictions(rows, path)
    printed = report(str(run)).stdout
    assert "\x1b" not in printed
    assert r"\x1b[2J" in printed


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Start the recipe inside this process; gives the one line that it ends with."""
    spec = importlib.util.spec_from_file_location("report_recipe", REPO / "recipes" / "report.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
        with pytest.raises(SystemExit) as end:
            run_recipe(recipe.main)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) < 500
        return line

    return start


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({}, "There is no evaluation in", id="an empty folder"),
        pytest.param({"mine/config.yaml": b"lambda1: 0.1"}, "has logged a step with rewards yet", id="not logged yet"),
        pytest.param(
            {"mine/completions/completions_00001.parquet": b"PAR1 half"}, "cannot be read as completions", id="damaged"
        ),
        pytest.param({"mine/trainer_state.json": b"{"}, "cannot be read as a log of training", id="damaged log"),
    ],
)
def test_what_cannot_be_reported_on_is_told_in_one_line(tmp_path, refuse, files, reason):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert reason in refuse(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_a_port_that_cannot_be_used_ends_with_one_line(tmp_path, refuse):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = refuse(str(tmp_path), "--serve", "--port", str(taken.getsockname()[1]))
    assert "which another program uses. Set --port" in line
    assert "Expected 0 to 65535" in refuse(str(tmp_path), "--serve", "--port", "70000")
    assert "There is no folder" in refuse(str(tmp_path / "nothing"), "--serve")


@pytest.mark.slow
def test_a_run_without_an_evaluation_has_a_page_about_its_training(tmp_path):
    write_rollouts(tmp_path / "mine")
    result = report(str(tmp_path / "mine"))
    assert result.returncode == 0, result.stderr
    assert "0 cases and 6 groups of training" in result.stdout
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["completions", "config.yaml", "report.html"]


def test_the_terminal_tells_the_calibration_where_it_was_measured(tmp_path):
    run = write_small_run(tmp_path)
    for model, sure in (("base", 0.9), ("emo_r3", 0.6)):
        folder = run / "evaluation" / model
        rows = load_predictions(folder / "predictions.parquet")
        for index, row in enumerate(rows):
            told = [sure if label == row.answer else (1 - sure) / 2 for label in row.label_space]
            rows[index] = replace(row, label_probabilities=told if row.answer else None)
        save_predictions(rows, folder / "predictions.parquet")
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics |= summarise_predictions([row for row in rows if row.dataset == "test"])
        (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = report(str(run)).stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("calibration on in-domain"))
    assert [line.split("  ")[0] for line in lines[start + 2 : start + 4]] == ["base", "EMO-R3"]
    assert "4 of 5" in lines[start + 2]
    assert "0.650 [" in lines[start + 2]  # |1 in 4 right − 0.9|
    assert "0.200 [" in lines[start + 3]  # |4 in 5 right − 0.6|
