"""Each alarm fires on a policy that cheats as it is meant to catch, in a real run, and on no other."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cheating import FEELINGS, OBJECTS, let_write, write_completion
from training import LABELS, logged, tiny_trainer
from transformers import AutoModelForImageTextToText

from emor3_trl import EmoR3Trainer
from emor3_trl.diagnostics import ALARMS, DIAGNOSTICS, judge_alarms
from emor3_trl.emotions import VALENCE
from emor3_trl.thinking import MALFORMED_REASONS

STEPS = 3
Row = dict[str, Any]


def write_honestly(row: Row, place: int, **changes: str) -> str:
    """Name what the row's image shows, feel an emotion and answer it: the right one in every second completion."""
    emotion = row["emotion"] if place % 2 else another_label(row)
    parts = {
        "trigger": f"I see {OBJECTS[int(row['id'])]}.",
        "feeling": f"A person feels {FEELINGS[emotion]}.",
        "answer": emotion,
        "conclusion": f"So it is {VALENCE[emotion]}.",
    }
    return write_completion(**{**parts, **changes})


def another_label(row: Row, step: int = 1) -> str:
    space = row["label_space"]
    return space[(space.index(row["emotion"]) + step) % len(space)]


def name_the_label(row: Row, place: int) -> str:
    answer = row["emotion"] if place % 2 else another_label(row)
    return write_honestly(row, place, feeling=f"A person feels {answer}.")


def say_the_same_of_every_image(row: Row, place: int) -> str:
    return write_honestly(row, place, trigger="I see people, actions and surroundings.")


def answer_awe(row: Row, place: int) -> str:
    feeling = FEELINGS["awe" if place % 2 else row["emotion"]]
    return write_honestly(
        row, place, answer="awe", conclusion="So it is positive.", feeling=f"A person feels {feeling}."
    )


def think_one_thing_and_answer_another(row: Row, place: int) -> str:
    return write_honestly(row, place, feeling=f"A person feels {FEELINGS[another_label(row, 2 - place % 2)]}.")


def conclude_the_opposite(row: Row, place: int) -> str:
    emotion = row["emotion"] if place % 2 else another_label(row)
    opposite = {"positive": "negative", "negative": "positive"}[VALENCE[emotion]]
    return write_honestly(row, place, conclusion=f"So it is {opposite}.")


def leave_out_a_step(row: Row, place: int) -> str:
    return re.sub(r"<step2>.*</step2>", "", write_honestly(row, place)) if place % 2 else write_honestly(row, place)


def be_right_and_differ_in_thought(row: Row, place: int) -> str:
    thought = row["emotion"] if place % 2 else another_label(row)
    right = {"answer": row["emotion"], "conclusion": f"So it is {VALENCE[row['emotion']]}."}
    return write_honestly(row, place, feeling=f"A person feels {FEELINGS[thought]}.", **right)


def repeat_one_completion(row: Row, place: int) -> str:
    return write_honestly(row, 1)


CHEATS: list[Any] = [
    pytest.param(write_honestly, set(), id="honest"),
    pytest.param(name_the_label, {"steps_name_label", "label_carries_coherence"}, id="label-in-steps"),
    pytest.param(say_the_same_of_every_image, {"unspecific_trigger"}, id="one-trigger-for-all"),
    # Where all answers are alike, accuracy separates no siblings
    pytest.param(answer_awe, {"collapsed_answers", "only_reflection_decides"}, id="one-answer-for-all"),
    pytest.param(think_one_thing_and_answer_another, {"thinking_ignored"}, id="thinks-one-answers-another"),
    pytest.param(conclude_the_opposite, {"conclusion_contradicts"}, id="step-3-says-the-opposite"),
    pytest.param(leave_out_a_step, {"malformed"}, id="half-malformed"),
    pytest.param(be_right_and_differ_in_thought, {"only_reflection_decides"}, id="reflection-alone"),
    pytest.param(repeat_one_completion, {"dead_groups"}, id="copies"),
]


def train_cheat(judge_dir: Any, folder: Any, monkeypatch: Any, write: Callable, **options: Any) -> EmoR3Trainer:
    """Train a policy whose completions a rule writes, and whose taught judge says Yes to anything."""
    settings = {"reward_funcs": None, "use_vllm": False, "num_generations": 2, "max_steps": STEPS, "probe_steps": 1}
    # The weights stay as they are, so that the judge does
    trainer = tiny_trainer(judge_dir, folder, **{**settings, "learning_rate": 0.0, **options})
    let_write(trainer, monkeypatch, write)
    trainer.train()
    return trainer


def list_firing(entry: dict[str, Any]) -> set[str]:
    return {name.removeprefix("alarms/") for name, value in entry.items() if name.startswith("alarms/") and value}


@pytest.mark.parametrize(("write", "expected"), CHEATS)
def test_an_alarm_fires_on_the_policy_that_it_is_meant_to_catch(judge_dir, tmp_path, monkeypatch, write, expected):
    trainer = train_cheat(judge_dir, tmp_path, monkeypatch, write)
    fired = list_firing(trainer.state.log_history[STEPS - 1])
    assert fired == {*expected, "judge_says_yes"}  # of all of these policies the judge cheats, too
    assert not list_firing(trainer.state.log_history[0])  # one step alone fires none


def test_a_judge_that_says_yes_to_anything_has_no_gap(judge_dir, tmp_path, monkeypatch):
    trainer = train_cheat(judge_dir, tmp_path, monkeypatch, write_honestly, max_steps=2)
    assert logged(trainer, "diagnostics/shuffled_yes") == [1.0, 1.0]
    assert logged(trainer, "diagnostics/yes_gap") == [0.0, 0.0]
    assert logged(trainer, "diagnostics/masked_coherence") == [1.0, 1.0]
    assert logged(trainer, "alarms/judge_says_yes") == [0.0, 1.0]


def test_every_alarm_is_fired_by_some_policy_of_these_tests():
    shown = {alarm for parameters in CHEATS for alarm in parameters.values[1]}
    assert shown | {"judge_says_yes", "no_exploration"} == {alarm.name for alarm in ALARMS}


def test_the_page_has_the_alarms_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "DIAGNOSTICS.md").read_text(encoding="utf-8")
    for alarm in ALARMS:
        row = f"| `{alarm.name}` | `{alarm.metric}` | {alarm.limit}, {alarm.patience} in a row |"
        assert f"{row} {alarm.meaning} | {alarm.action} |" in page


def test_a_policy_that_is_certain_of_every_token_explores_nothing(untied_model_dir, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(untied_model_dir, dtype=torch.float32)
    model.lm_head.weight.data *= 1e5
    trainer = tiny_trainer(untied_model_dir, tmp_path, model=model, use_vllm=False, max_steps=3, learning_rate=0.0)
    trainer.train()
    assert max(logged(trainer, "entropy")) < 0.01
    assert logged(trainer, "alarms/no_exploration") == [0.0, 0.0, 1.0]


BROKEN = {
    "other_tag": lambda text: text.replace("</step1>", " <b></step1>"),
    "missing_tag": lambda text: text.replace("</step2>", ""),
    "repeated_tag": lambda text: text.replace("<step1>", "<step1><step1>"),
    "wrong_order": lambda text: text.replace("step1", "step9").replace("step2", "step1").replace("step9", "step2"),
    "box_in_step": lambda text: text.replace("</step3>", r" \boxed{awe}</step3>"),
    "text_outside_steps": lambda text: "Well: " + text,
    "empty_step": lambda text: re.sub("<step2>.*</step2>", "<step2> </step2>", text),
    "no_box": lambda text: text.split("\\boxed")[0],
    "several_boxes": lambda text: text + r" \boxed{awe}",
    "unfinished_box": lambda text: text.removesuffix("}"),
    "empty_box": lambda text: re.sub(r"boxed\{.*\}", "boxed{}", text),
    "text_before_box": lambda text: text.replace("\\boxed", "I have thought of it for long. " * 3 + "\\boxed"),
    "text_after_box": lambda text: text + " because of the light",
    "cut_off": lambda text: text[:60],
}


@pytest.mark.slow
def test_a_form_that_breaks_in_any_way_is_told_with_its_reason(judge_dir, tmp_path, monkeypatch, caplog):
    """A step for each way; the completions of the last end without an end of turn."""
    assert set(BROKEN) == set(MALFORMED_REASONS)
    ways = iter(BROKEN)
    step, way = -1, ""

    def write(row: Row, place: int) -> str:
        nonlocal step, way
        if trainer.state.global_step != step:
            step, way = trainer.state.global_step, next(ways)
        return BROKEN[way](write_honestly(row, place))

    settings = {"reward_funcs": None, "use_vllm": False, "max_steps": len(BROKEN), "learning_rate": 0.0}
    trainer = tiny_trainer(judge_dir, tmp_path, **settings)
    let_write(trainer, monkeypatch, write, ends=lambda: way != "cut_off")
    with caplog.at_level(logging.WARNING, "emor3_trl"):
        trainer.train()
    entries = trainer.state.log_history[: len(BROKEN)]
    for entry, reason in zip(entries, BROKEN, strict=True):
        assert entry["diagnostics/malformed"] == entry[f"diagnostics/malformed/{reason}"] == 1.0, reason
        assert sum(entry[f"diagnostics/malformed/{name}"] for name in MALFORMED_REASONS) == 1.0
    assert [entry["alarms/malformed"] for entry in entries] == [0.0, 0.0] + [1.0] * (len(BROKEN) - 2)
    lines = [record.getMessage() for record in caplog.records if "Alarm malformed" in record.getMessage()]
    assert len(lines) == 1  # told once, until it clears
    assert lines[0].startswith(
        "Step 3: Alarm malformed: diagnostics/malformed is 1.00, above 0.3 3 times in a row. Most"
    )
    assert "Most often: repeated_tag (1.00)." in lines[0]


def test_what_is_logged_is_explained_and_what_is_explained_is_logged(judge_dir, tmp_path, monkeypatch):
    switches = {"soft_reflection": "raw", "contrastive_consistency": True, "gated_reflection": "right"}
    trainer = train_cheat(judge_dir, tmp_path, monkeypatch, write_honestly, **switches)
    seen = {key for entry in trainer.state.log_history for key in entry if key.startswith(("diagnostics/", "alarms/"))}
    assert len(DIAGNOSTICS) == len({metric.name for metric in DIAGNOSTICS})
    patterns = {metric.name: re.sub("<[a-z]+>", "[a-z_]+", metric.name) for metric in DIAGNOSTICS}
    used = {name for name, pattern in patterns.items() if any(re.fullmatch(pattern, key) for key in seen)}
    assert used == set(patterns)
    assert all(any(re.fullmatch(pattern, key) for pattern in patterns.values()) for key in seen)
    emotions = {key.split("/")[-1] for key in seen if key.startswith("diagnostics/reward/")}
    assert emotions <= set(LABELS)


@pytest.mark.slow
def test_alarms_are_judged_on_the_mean_that_is_logged(judge_dir, tmp_path, monkeypatch):
    trainer = train_cheat(judge_dir, tmp_path, monkeypatch, answer_awe, max_steps=6, logging_steps=2)
    values = logged(trainer, "diagnostics/favourite_excess")
    assert len(values) == 3
    assert logged(trainer, "alarms/collapsed_answers") == [0.0, 0.0, 1.0]


def judge_series(metric: str, values: list[float | None], start: int = 0) -> tuple[list[Any], list[int]]:
    """Log values one by one; return what the alarm of the metric says of each, and where it writes a line."""
    history: list[dict[str, Any]] = [{"step": step} for step in range(start)]
    lines = []
    for place, value in enumerate(values):
        now = {} if value is None else {metric: value}
        alarms, told = judge_alarms(now, history)
        history.append({**now, **alarms})
        lines += [place] * len(told)
    (alarm,) = [alarm for alarm in ALARMS if alarm.metric == metric]
    return [entry.get(f"alarms/{alarm.name}") for entry in history[start:]], lines


@pytest.mark.parametrize(
    ("values", "fires", "lines"),
    [
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], [2], id="told-once"),
        pytest.param([1, 1, 0.1, 1, 1], [0, 0, 0, 0, 0], [], id="a-noisy-step-starts-anew"),
        pytest.param([1, 1, 1, 0.1, 1, 1, 1], [0, 0, 1, 0, 0, 0, 1], [2, 6], id="clears-and-is-told-again"),
        pytest.param([1, None, 1, None, 1], [0, None, 0, None, 1], [4], id="entries-without-it-do-not-count"),
        pytest.param([0.5, 0.5, 0.5], [0, 0, 0], [], id="the-limit-itself-is-healthy"),
    ],
)
@pytest.mark.parametrize("start", [0, 5])
def test_patience_by_hand(values, fires, lines, start):
    assert judge_series("diagnostics/favourite_excess", values, start) == (fires, lines)


def test_an_alarm_below_a_limit_fires_below_it():
    assert judge_series("diagnostics/agreement", [0.39, 0.39, 0.39])[0] == [0, 0, 1]
    assert judge_series("diagnostics/agreement", [0.41, 0.41, 0.41])[0] == [0, 0, 0]


@pytest.mark.slow
def test_a_resumed_run_has_the_alarms_of_an_uninterrupted_one(judge_dir, tmp_path, monkeypatch):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = train_cheat(judge_dir, tmp_path / "whole", monkeypatch, answer_awe, **options)
    monkeypatch.undo()
    settings = {"reward_funcs": None, "use_vllm": False, "num_generations": 2, "probe_steps": 1, "learning_rate": 0.0}
    resumed = tiny_trainer(judge_dir, tmp_path / "whole", **settings, **options)
    let_write(resumed, monkeypatch, answer_awe)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    name = "alarms/collapsed_answers"
    assert logged(resumed, name) == logged(whole, name) == [0.0, 0.0, 1.0, 1.0]
