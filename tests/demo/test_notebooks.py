"""The notebooks run on the files of `make demo`, draw, and say what these files hold."""

import base64
import io
import json
import re

import numpy as np
import pytest
from notebook_runs import NOTEBOOKS, ROOT, list_outputs, run_notebook
from PIL import Image

pytestmark = pytest.mark.demo
DEMO = ROOT / "runs" / "demo"


def expect_data() -> list[str]:
    counts = json.loads((DEMO / "data" / "manifest.json").read_text())["counts"]
    pictures = sum(sum(splits.values()) for splits in counts.values())
    return [f"{len(counts)} data sets hold {pictures:,} pictures", "0 pictures are in two splits"]


def expect_run() -> list[str]:
    metrics = json.loads((DEMO / "emo_r3" / "metrics.json").read_text())
    summary = json.loads((DEMO / "summary.json").read_text())
    first, last = metrics["reward/first_quarter"], metrics["reward/last_quarter"]
    before, after = (summary[model]["in_domain"]["accuracy"] for model in ("base", "emo_r3"))
    return [
        f"from {first:.2f} in the first quarter of the steps to {last:.2f} in the last",
        f"{before:.2f} before, {after:.2f} after",
        "The rise is real.",
    ]


def expect_generalisation() -> list[str]:
    summary = json.loads((DEMO / "summary.json").read_text())
    datasets = {"sketches": "in_domain", "toons": "toons", "emoji": "emoji"}
    pairs = [[summary[model][name]["accuracy"] for model in ("sft", "emo_r3")] for name in datasets.values()]
    return [f"SFT {sft:.2f}, EMO-R3 {emo_r3:.2f}; difference {emo_r3 - sft:+.2f}" for sft, emo_r3 in pairs]


EXPECTED = {
    "1_the_data": expect_data,
    "2_a_reward_by_hand": lambda: ["agree on all", "The judge looks at the picture."],
    "3_one_group": lambda: ["agree on reflection, rewards and advantages of all 8 completions"],
    "4_is_the_run_healthy": expect_run,
    "5_what_generalises": expect_generalisation,
    "6_change_the_reward": lambda: ["`brief` was hacked"],
}


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_on_the_demo_and_says_what_its_files_hold(name: str) -> None:
    assert (DEMO / "report.html").is_file(), f"{DEMO} is not complete: run 'make demo' first"
    done = run_notebook(name, ROOT / "notebooks")  # where Jupyter starts it
    figures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in list_outputs(done, "image/png")]
    assert figures
    assert all(np.ptp(np.asarray(figure.convert("L"))) > 100 for figure in figures), "a figure is blank"
    *_, seen = list_outputs(done, "text/markdown")
    assert done.cells[-1].outputs[-1]["data"]["text/markdown"] == seen
    for sentence in EXPECTED[name]():
        assert sentence in seen
    if name == "3_one_group":
        # The step pushed up what beat the group's mean, beside what did not
        correlation = float(re.search(r"correlate with r = (-?\d\.\d+)", seen)[1])
        assert correlation > 0.3
