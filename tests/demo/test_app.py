"""The page of recipes/app.py with the demo's own models: what it shows is what the evaluation stored."""

import os
from pathlib import Path

import pytest
from browser import find_browser, open_browser
from served_app import DONE, drop, find_violations, open_app, serve

from emor3_trl.data import load_split
from emor3_trl.evaluation.prediction import Prediction, load_predictions

pytestmark = pytest.mark.demo
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "runs" / "demo"


@pytest.fixture(scope="module")
def stored() -> dict[str, Prediction]:
    """What the evaluation stored of one picture, by model: one that the training has changed the answer to."""
    if not (DEMO / "evaluation" / "emo_r3" / "predictions.parquet").is_file():
        pytest.fail("This test reads the files of the demo: run 'make demo' first")
    models = {
        name: {
            row.id: row
            for row in load_predictions(DEMO / "evaluation" / name / "predictions.parquet")
            if row.dataset == "sketches"
        }
        for name in ("emo_r3", "base")
    }
    base = models["base"]
    changed = [
        row for row in models["emo_r3"].values() if row.correct and base[row.id].answer not in (None, row.answer)
    ]
    return {name: rows[changed[0].id] for name, rows in models.items()}


def test_the_bare_call_shows_what_the_evaluation_stored(stored: dict[str, Prediction], tmp_path: Path) -> None:
    pytest.importorskip("playwright", reason="Playwright is not installed: pip install -e .[dev]")
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -e .[app]")
    executable = find_browser()
    if executable is None:
        pytest.skip("There is no Chromium here: 'make browser' installs it where apt-get can")
    rows = load_split(DEMO / "data" / "sketches", "test")
    row = next(row for row in rows if row["id"] == stored["base"].id)
    row["image"].save(tmp_path / "face.png")
    os.symlink(ROOT / "runs", tmp_path / "runs")
    with serve(tmp_path) as address, open_browser(executable) as browser:
        page, faults = open_app(browser, address, 390)
        drop(page, tmp_path / "face.png")
        page.wait_for_function(f"document.querySelectorAll('{DONE}').length === 2", timeout=120_000)
        for answer, name in zip(page.locator(DONE).all(), ("emo_r3", "base"), strict=True):
            expected = stored[name]
            assert name in answer.locator("h2").inner_text()
            assert answer.locator(".emotion").inner_text() == expected.answer
            steps = answer.locator(".steps li").all_inner_texts()
            for text, step in zip(steps, (expected.trigger, expected.feeling, expected.conclusion), strict=True):
                assert text.endswith(str(step))
            assert expected.label_probabilities is not None
            top = max(expected.label_probabilities)
            assert float(answer.locator("dd:nth-of-type(even)").first.inner_text()) == pytest.approx(top, abs=0.01)
        assert find_violations(page) == []
        assert faults == []
