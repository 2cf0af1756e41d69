"""The demo's runs are healthy: no alarm fires, the judge is honest, and what is logged can be counted again.

They read `trainer_state.json` (all logged metrics) and the tables of completions in the folder of each run.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emor3_trl.diagnostics import ALARMS
from emor3_trl.diagnostics.triggers import compare_triggers
from emor3_trl.thinking import parse

pytestmark = pytest.mark.demo
DEMO = Path(__file__).parents[2] / "runs" / "demo"
REWARDS = {"accuracy": 0.8, "consistency": 0.05, "coherence": 0.05, "format": 0.1}


@pytest.fixture(params=["emo_r3", "emo_r3_cold_start"])
def run(request: pytest.FixtureRequest) -> Path:
    """The folder of one of the demo's GRPO runs."""
    folder = DEMO / request.param
    assert folder.is_dir(), f"{folder} is missing: run 'make demo' first"
    return folder


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the logged steps."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "reward" in entry]


def test_no_alarm_fires(run: Path) -> None:
    for alarm in ALARMS:
        values = [entry[f"alarms/{alarm.name}"] for entry in read_log(run) if f"alarms/{alarm.name}" in entry]
        assert len(values) >= alarm.patience, f"{alarm.name} was judged {len(values)} times"
        assert set(values) == {0.0}, f"{alarm.name} fired: {alarm.meaning}"


def test_the_judge_looks_at_the_image_and_reads_more_than_labels(run: Path) -> None:
    probed = [entry for entry in read_log(run) if "diagnostics/shuffled_yes" in entry]
    assert [entry["step"] for entry in probed] == [10, 20]
    for entry in probed:
        assert entry["diagnostics/shuffled_yes"] < 0.3  # seen: 0.00 to 0.05
        assert entry["diagnostics/yes_gap"] > 0.5  # seen: 0.81 to 0.87
        assert entry["diagnostics/masked_coherence"] > 0.9  # seen: 1.00


def test_shares_and_triggers_are_those_of_the_completions(run: Path) -> None:
    for entry in read_log(run)[::6]:
        table = pd.read_parquet(run / "completions" / f"completions_{entry['step']:05d}.parquet")
        advantages = table["advantage"].to_numpy().round(6)  # (64,), of 8 groups; what rounding leaves has no sign
        total = sum(weight * table[f"{name}_reward"] for name, weight in REWARDS.items())
        deviations = total.groupby(np.arange(64) // 8).transform("std") + 1e-4
        for name, weight in REWARDS.items():
            reward = table[f"{name}_reward"]
            part = weight * (reward - reward.groupby(np.arange(64) // 8).transform("mean")) / deviations
            share = (np.sign(advantages) * part).sum() / np.abs(advantages).sum()
            assert entry[f"diagnostics/advantage_share/{name}"] == pytest.approx(share, abs=1e-3)
        thinking = [parse(completion[0]["content"]) for completion in table["completion"]]
        places = [place for place, thought in enumerate(thinking) if thought is not None]
        triggers = compare_triggers([thinking[place].trigger for place in places], [place // 8 for place in places])
        assert entry["diagnostics/trigger_specificity"] == pytest.approx(triggers["trigger_specificity"])
        assert entry["diagnostics/malformed"] == pytest.approx(1 - len(places) / 64)
