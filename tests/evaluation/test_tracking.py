"""An evaluated model in W&B and trackio: metrics, confusion and a bounded table, offline."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import EMOTIONS, make_predictions
from wandb_files import find_run_files, read_config, read_history

from emor3_trl.evaluation.tracking import TABLE_ROWS

ROOT = Path(__file__).parents[2]
# In a process of its own, because trackio and W&B read their folders once
_LOGGING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from datasets import Dataset
from small_run import make_predictions
from tiny_model import tiny_pictures
from emor3_trl.evaluation.plots import save_confusions
from emor3_trl.evaluation.tracking import log_evaluation
folder = Path(sys.argv[2])
predictions = {"test": make_predictions("base", "test") * 10, "toons": make_predictions("base", "toons")}
images = {name: Dataset.from_list([{"image": image} for image in tiny_pictures(5) * (len(rows) // 5)])
    for name, rows in predictions.items()}
save_confusions("base", predictions, folder)
log_evaluation(["wandb", "trackio"], "base", {"seed": 7}, {"eval/test/accuracy": 0.2}, predictions, images, folder)
# Nothing is there that trackio could read the confusion from
log_evaluation(["trackio"], "other", {}, {"eval/test/accuracy": 0.1}, predictions, images, folder / "nowhere")
print("further models follow", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged")
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "TRACKIO_"))}
    variables |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(folder / "trackio")}
    command = [sys.executable, "-c", _LOGGING, str(ROOT / "tests"), str(folder)]
    done = subprocess.run(
        command, env={**variables, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trackio did not take the evaluation of other: " in done.stderr
    assert done.stderr.rstrip().endswith("further models follow")
    return folder


@pytest.mark.slow
def test_wandb_holds_metrics_configuration_confusions_and_a_bounded_table(logged: Path) -> None:
    (file,) = find_run_files(logged)
    history = {key: value for entry in read_history(file) for key, value in entry.items()}
    assert history["eval/test/accuracy"] == 0.2
    assert read_config(file)["seed"] == 7
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in logged.rglob("*.table.json")}
    table = tables["completions"]
    assert len(table["data"]) == TABLE_ROWS + 5  # of 50 and 5
    assert table["columns"][:2] == ["image", "dataset"]
    confusions = [table for name, table in tables.items() if name == "confusion"]
    counts = {(actual, predicted): count for actual, predicted, count in confusions[0]["data"] if count}
    answers = [prediction.answer or "no answer" for prediction in make_predictions("base", "toons")]
    pairs = list(zip(EMOTIONS, answers, strict=True))
    expected = {pair: pairs.count(pair) for pair in pairs}
    assert counts in (expected, {pair: 10 * count for pair, count in expected.items()})


@pytest.mark.slow
def test_trackio_holds_the_same(logged: Path) -> None:
    with sqlite3.connect(logged / "trackio" / "emor3_trl.db") as database:
        ((name, metrics),) = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    metrics = json.loads(metrics)
    assert name == "evaluate-base"
    assert metrics["eval/test/accuracy"] == 0.2
    assert len(metrics["eval/completions"]["_value"]) == TABLE_ROWS + 5
    for entry in (metrics["eval/toons/confusion"], metrics["eval/completions"]["_value"][0]["image"]):
        assert (logged / "trackio" / "media" / entry["file_path"]).read_bytes()[:4] == b"\x89PNG"
