"""recipes/report.py as a user starts it: the files that it writes, and a mistake in one line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from small_run import write_small_run
from tiny_model import tiny_pictures

from emor3_trl.evaluation.prediction import load_predictions, save_predictions

REPO = Path(__file__).parents[2]


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "recipes" / "report.py"), *arguments]
    environment = {"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


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
