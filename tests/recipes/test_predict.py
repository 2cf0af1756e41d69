"""recipes/predict.py as a user starts it: pictures of one's own, good and bad, in any label space."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipe_commands import RecipeRunner
from tiny_model import tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.evaluation.prediction import load_predictions

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
COMMAND = [sys.executable, str(ROOT / "recipes" / "predict.py")]
QUICK = ["--engine", "transformers", "--max_tokens", "8", "--min_pixels", "784", "--max_pixels", "12544"]
LABELS = ["--label_space", "joy,anger,awe"]


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> RecipeRunner:
    return RecipeRunner("predict", monkeypatch, capsys)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos, one of them in a folder below, and what else lies among photos."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, picture in enumerate(tiny_pictures(6)):
        picture.save(folder / ("more" if number == 5 else ".") / f"<b>{number}.png")
    (folder / "page.jpg").write_text("<html>")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    (folder / "._0.png").write_text("left by a system")
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["nope.jpg", "photos"], "There is no 'nope.jpg'", id="no such image"),
        pytest.param(
            ["photos/page.jpg"], "None of the 1 images can be used: 'photos/page.jpg' is no picture", id="bad"
        ),
        pytest.param(["empty"], "The folder 'empty' holds no image", id="empty folder"),
        pytest.param(["photos", "--model", "elsewhere"], "There is no model at 'elsewhere'", id="no model"),
        pytest.param(["photos", "--label_space", "joy,joy"], "Expected two or more labels", id="labels"),
        pytest.param(["photos", "--max_tokens", "0"], "max_tokens is 0", id="no room"),
        pytest.param(["photos", "--min_pixels", "2000", "--max_pixels", "900"], "min_pixels is 2000", id="budget"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_loads(
    tmp_path: Path,
    photos: Path,
    tiny_model_dir: Path,
    predict: RecipeRunner,
    arguments: list[str],
    expected: str,
) -> None:
    (tmp_path / "empty").mkdir()
    chosen = [*arguments, *("--model", str(tiny_model_dir)) * ("--model" not in arguments)]
    chosen += LABELS * ("--label_space" not in arguments)
    refused = predict(tmp_path, *chosen)
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert not (tmp_path / "runs").exists()


def test_each_image_is_answered_and_a_bad_one_stops_none(
    tmp_path: Path, photos: Path, tiny_model_dir: Path, predict: RecipeRunner
) -> None:
    result = predict(tmp_path, "photos", "photos/more", "--model", str(tiny_model_dir), *LABELS, *QUICK)
    assert result.returncode == 1, result.stderr
    assert "photos/page.jpg: not used, it is no picture that can be read" in result.stderr
    assert "photos/empty.png: not used" in result.stderr
    folder = tmp_path / "runs" / "predictions"
    rows = json.loads((folder / "predictions.json").read_text())
    files = [f"photos/<b>{number}.png" for number in range(5)] + ["photos/more/<b>5.png"]
    assert sorted(row["file"] for row in rows) == files
    assert all(set(row["probabilities"] or LABELS[1].split(",")) == {"joy", "anger", "awe"} for row in rows)
    assert json.loads((folder / "metrics.json").read_text()) == {"images": 6, "not_used": 2}
    page = (folder / "predictions.html").read_text()
    assert page.count("<article>") == 6
    assert "<b>" not in page
    assert "<script" not in page
    assert "nothing to do" in predict(tmp_path, "photos", "--model", str(tiny_model_dir), *LABELS, *QUICK).stdout


def test_a_stopped_prediction_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, photos: Path, tiny_model_dir: Path, predict: RecipeRunner
) -> None:
    arguments = ["photos", "--model", str(tiny_model_dir), *LABELS, *QUICK, "--batch_size", "1"]
    predict(tmp_path, *arguments, "--output_dir", "whole")
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    journal = tmp_path / "runs" / "predictions" / "unfinished" / "predictions.jsonl"
    end = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = predict(tmp_path, *arguments)
    assert resumed.returncode == 1, resumed.stderr
    outcomes = [load_predictions(tmp_path / place / "predictions.parquet") for place in ("whole", "runs/predictions")]
    assert outcomes[0] == outcomes[1]


def test_the_training_tells_the_labels_and_the_size(
    tmp_path: Path, photos: Path, tiny_model_dir: Path, predict: RecipeRunner
) -> None:
    labels = ["awe", "fear"]
    row = {"image": tiny_pictures(1)[0].resize((56, 84)), "emotion": "awe", "label_space": labels, "source": "made"}
    write_split(tmp_path / "data", "train", [{**row, "id": str(number)} for number in range(2)])
    (tmp_path / "run").symlink_to(tiny_model_dir)
    (tmp_path / "trained").mkdir()
    for file in Path(tiny_model_dir).iterdir():
        (tmp_path / "trained" / file.name).symlink_to(file)
    (tmp_path / "trained" / "config.yaml").write_text("data: data\ntrain_split: train\n")
    result = predict(tmp_path, "photos/<b>1.png", "--model", "trained", *QUICK[:4])
    assert result.returncode == 0, result.stderr
    (prediction,) = load_predictions(tmp_path / "runs" / "predictions" / "predictions.parquet")
    assert prediction.label_space == labels
    config = (tmp_path / "runs" / "predictions" / "config.yaml").read_text()
    assert f"max_pixels: {56 * 84}" in config
    unknown = predict(tmp_path, "photos", "--model", "run", *QUICK)
    assert unknown.returncode == 2
    assert "label_space is not set, and the data that 'run' was trained on is not here" in unknown.stderr


def test_another_image_under_the_same_name_is_another_run(
    tmp_path: Path, photos: Path, tiny_model_dir: Path, predict: RecipeRunner
) -> None:
    arguments = ["photos/<b>0.png", "--model", str(tiny_model_dir), *LABELS, *QUICK]
    assert predict(tmp_path, *arguments).returncode == 0
    (photos / "<b>0.png").write_bytes((photos / "<b>1.png").read_bytes())
    refused = predict(tmp_path, *arguments)
    assert refused.returncode == 2, refused.stdout
    assert "holds a finished run of another configuration; different: the images changed" in refused.stderr
    assert predict(tmp_path, *arguments, "--overwrite").returncode == 0


def test_overwriting_looks_at_no_journal_of_before(
    tmp_path: Path, photos: Path, tiny_model_dir: Path, predict: RecipeRunner
) -> None:
    folder = tmp_path / "runs" / "predictions"
    (folder / "unfinished").mkdir(parents=True)
    (folder / "config.yaml").write_text("files: [other.png]")
    (folder / "unfinished" / "predictions.jsonl").write_text("of another run\n")
    arguments = ["photos/<b>0.png", "--model", str(tiny_model_dir), *LABELS, *QUICK]
    assert "different: " in predict(tmp_path, *arguments).stderr
    result = predict(tmp_path, *arguments, "--overwrite")
    assert result.returncode == 0, result.stderr
