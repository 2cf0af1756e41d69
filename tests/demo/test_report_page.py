"""The demo's page: what it says of training and of calibration is what the files of the runs say."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emor3_trl.evaluation.calibration import measure_calibration
from emor3_trl.evaluation.prediction import load_predictions, split_by_dataset

pytestmark = pytest.mark.demo
DEMO = Path(__file__).parents[2] / "runs" / "demo"
RUNS = ("emo_r3", "emo_r3_cold_start")
WEIGHTS = {"accuracy": 0.8, "consistency": 0.05, "coherence": 0.05, "format": 0.1}  # of the demo's configurations


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    path = DEMO / "report.html"
    assert path.is_file(), f"{path} is missing: run 'make demo' first"
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])


def test_rewards_of_each_step_on_the_page_are_those_that_the_trainer_logged(page: dict[str, Any]) -> None:
    for index, name in enumerate(RUNS):
        run = page["training"]["runs"][index]
        assert {part["name"]: part["weight"] for part in run["rewards"]} == WEIGHTS
        log = json.loads((DEMO / name / "trainer_state.json").read_text())["log_history"]
        logged = {entry["step"]: entry["reward"] for entry in log if "reward" in entry}
        assert len(logged) == 24
        for step, reward in logged.items():
            groups = [group for group in page["training"]["groups"] if (group["run"], group["step"]) == (index, step)]
            overall = [row["overall"] for group in groups for row in group["rows"]]
            assert np.mean(overall) == pytest.approx(reward, abs=1e-4)


def test_every_completion_of_training_is_on_the_page_with_its_picture(page: dict[str, Any]) -> None:
    images = page["training"]["images"]
    assert all(image["picture"] is not None for image in images)
    for index, name in enumerate(RUNS):
        for path in sorted((DEMO / name / "completions").glob("*.parquet")):
            table = pd.read_parquet(path)
            step = int(table["step"][0])
            groups = [group for group in page["training"]["groups"] if (group["run"], group["step"]) == (index, step)]
            assert [images[group["image"]]["id"] for group in groups] == table["id"].iloc[::8].tolist()
            shown = [row["advantage"] for group in groups for row in group["rows"]]
            assert shown == pytest.approx(table["advantage"].tolist(), abs=1e-4)


def test_both_runs_saw_the_same_pictures_so_that_they_can_stand_side_by_side(page: dict[str, Any]) -> None:
    seen = [{group["image"] for group in page["training"]["groups"] if group["run"] == index} for index in (0, 1)]
    assert len(seen[0] & seen[1]) > 20


def test_calibration_is_that_of_the_predictions(page: dict[str, Any]) -> None:
    for index, model in enumerate(page["models"]):
        folder = DEMO / "evaluation" / model["name"]
        metrics = json.loads((folder / "metrics.json").read_text())
        for place, dataset in enumerate(page["datasets"]):
            rows = split_by_dataset(load_predictions(folder / "predictions.parquet"))[dataset["name"]]
            values = measure_calibration(rows)
            assert values["n_with_probabilities"] == sum(row.answer is not None for row in rows)  # named a label
            for name, value in values.items():
                assert metrics[f"eval/{dataset['name']}/{name}"] == pytest.approx(value)
                assert page["metrics"][place][index][name] == pytest.approx(value)
            assert (folder / f"calibration_{dataset['name']}.png").is_file()
            bins = page["calibration"][place][index]["bins"]
            gap = sum(entry["n"] * abs(entry["accuracy"] - entry["confidence"]) for entry in bins)
            assert gap / values["n_with_probabilities"] == pytest.approx(values["ece"], abs=2e-4)
