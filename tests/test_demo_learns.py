"""What `make demo` must show: the policy learned, kept its form, and still talks about the picture."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.demo
DEMO = Path(__file__).parent.parent / "runs" / "demo"


def read(name: str) -> dict:
    path = DEMO / name
    assert path.is_file(), f"{path} is missing: run 'make demo' first"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def summary() -> dict:
    return read("summary.json")


def test_summary_has_every_model_and_data_set(summary: dict) -> None:
    for model in ("base", "cold_start", "emo_r3", "emo_r3_cold_start"):
        for data in ("in_domain", "twemoji", "openmoji"):
            entry = summary[model][data]
            assert entry["n"] > 0
            assert 0 <= entry["low"] <= entry["accuracy"] <= entry["high"] <= 1


def test_emo_r3_beats_its_base_model_in_domain(summary: dict) -> None:
    base, trained = (summary[name]["in_domain"]["accuracy"] for name in ("base", "emo_r3"))
    assert trained >= base + 0.15, f"base {base:.3f}, EMO-R3 {trained:.3f}"


def test_format_is_kept(summary: dict) -> None:
    trained = summary["emo_r3"]["in_domain"]
    assert trained["format_rate"] >= 0.95
    assert trained["sampled_format_rate"] >= 0.85


def test_reward_rises() -> None:
    history = read("emo_r3/trainer_state.json")["log_history"]
    rewards = [entry["reward"] for entry in history if "reward" in entry]
    quarter = len(rewards) // 4
    assert quarter >= 5, f"only {len(rewards)} logged steps"
    first, last = sum(rewards[:quarter]) / quarter, sum(rewards[-quarter:]) / quarter
    assert last - first >= 0.15, f"first quarter {first:.3f}, last {last:.3f}"


def test_conclusions_still_name_a_valence() -> None:
    path = DEMO / "evaluation" / "emo_r3" / "predictions.parquet"
    assert path.is_file(), f"{path} is missing: run 'make demo' first"
    completions = pd.read_parquet(path)["completion"]
    step3 = [re.search(r"<step3>(.*?)</step3>", text, re.DOTALL) for text in completions]
    named = [bool(step and re.search(r"\b(positive|negative)\b", step.group(1), re.IGNORECASE)) for step in step3]
    assert sum(named) / len(named) >= 0.95
