"""The benchmark of a cheating policy: what counts as a cheat, and what is counted of a run's own tables."""

import importlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emor3_trl.demo.pictures import choose_drawing
from emor3_trl.demo.worlds import SKETCHES
from emor3_trl.prompts import prompt_text
from emor3_trl.thinking import parse

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = list(SKETCHES.labels)
HONEST = ("I see closed eyes and a gentle smile and glasses.", "People who look at it feel relaxed.", "So it is calm.")
VAGUE, NAMED = "The picture shows a face and a background.", "A person who sees this would feel contentment."


@pytest.fixture
def cheats(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cheats")


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cheats_policy")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(HONEST, set(), id="honest"),
        pytest.param((VAGUE, *HONEST[1:]), {"vague"}, id="step 1 is true of every picture"),
        pytest.param((HONEST[0], NAMED, HONEST[2]), {"named"}, id="step 2 is the label"),
        pytest.param((*HONEST[:2], "."), {"empty"}, id="step 3 is a dot"),
        pytest.param((VAGUE, NAMED, "."), {"vague", "named", "empty"}, id="all at once"),
        pytest.param((None, None, None), set(), id="malformed"),
    ],
)
def test_each_step_cheats_in_its_own_way(policy, steps: tuple, expected: set[str]) -> None:
    assert policy.find_cheats(*steps, LABELS) == expected


def test_the_lessons_are_well_formed_right_and_cheat_each_way_in_half(policy) -> None:
    rng, found = random.Random(0), []
    for index in range(400):
        drawing = choose_drawing("sketches", 0, "train", index)
        thinking = parse(policy.write_half_honest(drawing, drawing.emotion, rng))
        assert thinking is not None
        assert thinking.answer == drawing.emotion
        found.append(policy.find_cheats(thinking.trigger, thinking.feeling, thinking.conclusion, LABELS))
    for cheat in policy.CHEATS:
        assert sum(cheat in ways for ways in found) == pytest.approx(200, abs=40)
    assert sum("vague" in ways and "named" in ways for ways in found) == pytest.approx(100, abs=35), (
        "coins of their own"
    )


def test_shares_and_what_a_cheat_earns_are_those_of_the_runs_tables(cheats, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "completions"
    folder.mkdir(parents=True)
    prompt = [{"role": "user", "content": prompt_text("set", LABELS)}]
    triggers = {1: [VAGUE, VAGUE, HONEST[0], None], 2: [HONEST[0], HONEST[0], VAGUE, HONEST[0]]}
    for step, written in triggers.items():
        rows = [
            {
                "step": step, "id": f"picture-{step}", "prompt": prompt, "trigger": trigger,
                "feeling": trigger and HONEST[1], "conclusion": trigger and HONEST[2],
                "advantage": 2.0 if trigger == VAGUE else -1.0,
                "accuracy_reward": 1.0, "format_reward": float(trigger is not None), "coherence_reward": None,
                "consistency_reward": 0.0 if trigger is None else 1.0 if trigger == VAGUE else 0.25,
            }
            for trigger in written
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / f"completions_{step:05d}.parquet")
    rollouts = cheats.read_rollouts(tmp_path / "run")
    honest = [{**row, "cheats": set(), "consistency_reward": 0.5} for row in rollouts]
    alone, arm = cheats.measure_arm([rollouts]), cheats.measure_arm([rollouts, honest])
    assert alone["steps"] == arm["steps"] == [1, 2]
    shares = {"vague": [0.6667, 0.25], "named": [0.0, 0.0], "empty": [0.0, 0.0]}  # of the well-formed
    assert arm["shares"] == {name: [by_step, [0.0, 0.0]] for name, by_step in shares.items()}
    earned = {"with": 1.0, "without": 0.25, "difference": 0.75, "low": 0.75, "high": 0.75}
    assert alone["earned"] == {"vague": earned}  # nobody cheats in the other ways
    assert arm["earned"]["vague"]["without"] == round((4 * 0.25 + 7 * 0.5) / 11, 4)  # the runs together
    assert alone["paid"] == {"vague": {"with": 2.0, "without": -1.0, "difference": 3.0, "low": 3.0, "high": 3.0}}
    assert (arm["accuracy"], arm["format"]) == ([[1.0, 1.0]] * 2, [[0.75, 1.0]] * 2)
    cheats.draw_arms({"emo_r3_g8": {"title": "the paper's rewards", **arm}}, tmp_path / "cheats.png")
    with Image.open(tmp_path / "cheats.png") as image:
        assert min(image.size) > 300
    assert (tmp_path / "cheats.png").stat().st_size < 200_000


def test_arms_are_systems_that_differ_in_the_reflection_alone(cheats) -> None:
    for name in cheats.ARMS:
        system = cheats.SYSTEMS[name]
        assert (system.stage, system.prompt_style, system.group_size, system.start) == ("grpo", "set", 8, None)
        assert set(system.settings) <= {
            "lambda1", "soft_reflection", "contrastive_consistency", "masked_coherence", "gated_reflection",
        }  # fmt: skip
