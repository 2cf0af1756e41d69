"""What `make demo` must show: the policy learned, kept its form, and still talks about the picture."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from emor3_trl.demo.texts import FEELINGS
from emor3_trl.demo.worlds import LOOKS, SKETCHES, WORLDS
from emor3_trl.emotions import VALENCE

pytestmark = pytest.mark.demo
DEMO = Path(__file__).parents[2] / "runs" / "demo"


def read(name: str) -> dict:
    path = DEMO / name
    assert path.is_file(), f"{path} is missing: run 'make demo' first"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def summary() -> dict:
    return read("summary.json")


def test_summary_has_every_model_and_data_set(summary: dict) -> None:
    for model in ("base", "cold_start", "sft", "emo_r3", "emo_r3_cold_start"):
        for data in ("in_domain", "toons", "emoji"):
            entry = summary[model][data]
            assert entry["n"] > 0
            assert 0 <= entry["low"] <= entry["accuracy"] <= entry["high"] <= 1


def test_emo_r3_beats_its_base_model_in_domain(summary: dict) -> None:
    base, trained = (summary[name]["in_domain"]["accuracy"] for name in ("base", "emo_r3"))
    assert trained >= base + 0.15, f"base {base:.3f}, EMO-R3 {trained:.3f}"


def test_the_base_model_knows_all_three_worlds_and_none_of_their_labels_by_heart(summary: dict) -> None:
    validation = read("base/base_training.json")["validation"]
    for name, world in zip(("in_domain", "toons", "emoji"), WORLDS.values(), strict=True):
        measured = summary["base"][name]["accuracy"], validation[f"accuracy/{world.name}"]
        # About 0.52, 0.56 and 0.50, at most 0.65 over both splits; one alone has few pictures
        assert all(2 / len(world.labels) <= accuracy <= 0.7 for accuracy in measured), (name, measured)
        assert sum(measured) / 2 <= 0.65, (name, measured)
    assert validation["format_rate"] >= 0.95
    assert validation["sampled_format_rate"] >= 0.85


def test_sft_falls_out_of_domain_and_emo_r3_keeps(summary: dict) -> None:
    def average(model: str) -> float:
        return sum(summary[model][name]["accuracy"] for name in ("toons", "emoji")) / 2

    assert summary["sft"]["in_domain"]["accuracy"] >= summary["base"]["in_domain"]["accuracy"] + 0.15
    assert average("emo_r3") >= average("sft") + 0.10, {name: average(name) for name in ("base", "sft", "emo_r3")}
    assert average("emo_r3") >= average("base") - 0.05


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


def test_all_three_steps_are_still_about_the_picture() -> None:
    path = DEMO / "evaluation" / "emo_r3" / "predictions.parquet"
    assert path.is_file(), f"{path} is missing: run 'make demo' first"
    everywhere = pd.read_parquet(path)
    rows = everywhere[everywhere["dataset"] == "sketches"]

    def share(says) -> float:
        return sum(bool(row.well_formed and says(row)) for row in rows.itertuples()) / len(rows)

    faces = {emotion: [face for look in group for face in LOOKS[look]] for emotion, group in SKETCHES.looks.items()}
    shares = {
        "step 1 describes a face of the picture's emotion": share(lambda row: names(row.trigger, faces[row.emotion])),
        "step 2 names a feeling of the answer": share(lambda row: names(row.feeling, FEELINGS.get(row.answer, ()))),
        "step 3 names the answer's valence": share(lambda row: names(row.conclusion, [VALENCE.get(row.answer, "?")])),
    }
    assert min(shares.values()) >= 0.85, shares
    # A step that says the same of every picture would be about none
    assert everywhere["trigger"].nunique() >= 40
    assert everywhere.groupby("dataset")["trigger"].nunique().min() >= 12


def names(text: str, phrases: Iterable[str]) -> bool:
    return any(phrase in text for phrase in phrases)


def test_the_report_and_the_comparison_are_there() -> None:
    page = DEMO / "report.html"
    assert page.is_file(), f"{page} is missing: run 'make demo' first"
    assert all(title in page.read_text(encoding="utf-8") for title in ("cold start", "EMO-R3#"))
    rows = read("evaluation/comparisons.json")
    assert {row["b"] for row in rows} == {"cold_start", "sft", "emo_r3", "emo_r3_cold_start"}
    against_base = next(row for row in rows if row["b"] == "emo_r3" and row["dataset"] == "sketches")
    assert against_base["a"] == "base"
    assert against_base["low"] > 0
    assert against_base["p_value"] < 0.001


def test_each_answer_has_the_probabilities_of_the_labels() -> None:
    rows = pd.read_parquet(DEMO / "evaluation" / "emo_r3" / "predictions.parquet")
    answered = rows[rows["answer"].notna()]
    assert len(answered) > 0.9 * len(rows)
    likeliest = [
        labels[probabilities.argmax()] == answer
        for labels, probabilities, answer in zip(
            answered["label_space"], answered["label_probabilities"], answered["answer"], strict=True
        )
    ]
    assert sum(likeliest) > 0.95 * len(answered)  # the model answers greedily, so what it wrote is what it thinks
    assert all(abs(values.sum() - 1) < 1e-6 for values in answered["label_probabilities"])
