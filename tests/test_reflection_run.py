"""Real runs with the switches of the reflection: what is asked, earned and logged, and nothing of it without them."""

import pandas as pd
import pytest
import torch
from cheating import let_write, write_half_right
from training import logged, tiny_trainer

from emor3_trl import EmoR3Trainer
from emor3_trl.emotions import EMOSET_8
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.reflection import coherence_question, consistency_question
from emor3_trl.reward_columns import ANSWERS, SWITCHED_COLUMNS
from emor3_trl.thinking import parse

SWITCHES = {"soft_reflection": "calibrated", "contrastive_consistency": True, "masked_coherence": True,
            "gated_reflection": "right"}  # fmt: skip
COUNTS = ("cached_tokens", "contrast_requests")
STEP = {"reward_funcs": None, "num_generations": 2, "max_steps": 2, "parity_stop": 1e9, "parity_warn": 1e9}


def watch_rewards(monkeypatch) -> list[tuple[list[dict], torch.Tensor]]:
    """Return a list that gets the rows of each rollout with what they earn."""
    rollouts, stock = [], EmoR3Trainer._calculate_rewards

    def calculate(self, inputs, *args):
        earned = stock(self, inputs, *args)
        rollouts.append(([dict(row) for row in inputs], earned))
        return earned

    monkeypatch.setattr(EmoR3Trainer, "_calculate_rewards", calculate)
    return rollouts


def test_without_a_switch_there_is_no_column_and_no_probability(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersEngine, "weigh", lambda *_: pytest.fail("nobody asked for probabilities"))
    rollouts = watch_rewards(monkeypatch)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **{**STEP, "max_steps": 1}, use_vllm=False)
    let_write(trainer, monkeypatch, write_half_right)
    trainer.train()
    ((rows, earned),) = rollouts
    assert all(set(ANSWERS) <= row.keys() and not set(SWITCHED_COLUMNS) & row.keys() for row in rows)
    assert set(earned.flatten().tolist()) <= {0.0, 1.0}
    assert not [key for key in trainer.state.log_history[0] if "contrast" in key or "exact" in key]


@pytest.mark.slow
def test_with_all_switches_rewards_are_those_of_the_columns_and_engines_agree(tiny_model_dir, tmp_path, monkeypatch):
    rollouts = watch_rewards(monkeypatch)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **STEP, **SWITCHES, probe_steps=1, log_completions=True, side=168)
    let_write(trainer, monkeypatch, write_half_right)
    trainer.train()
    assert len(rollouts) == 2
    for rows, earned in rollouts:
        assert all(set(SWITCHED_COLUMNS) <= row.keys() for row in rows)
        accuracy, consistency, coherence, _ = earned.T.tolist()
        assert sorted(set(accuracy)) == [0.0, 1.0]
        assert [row["reflection_gate"] for row in rows] == accuracy
        for row, right, told, read in zip(rows, accuracy, consistency, coherence, strict=True):
            here, elsewhere = row["consistency_probability"], row["contrast_probability"]
            assert told == pytest.approx(right * here * (1 - elsewhere), abs=1e-6)
            assert read == pytest.approx(right * row["coherence_probability"], abs=1e-6)
        assert len({round(value, 6) for value in coherence}) > 2
    assert logged(trainer, "diagnostics/reflection_counts") == logged(trainer, "rewards/accuracy_reward/mean")
    assert logged(trainer, "diagnostics/contrasted") == [1.0, 1.0]
    assert min(logged(trainer, "reflection/contrast_requests")) >= 4  # one about each of four images, or more
    assert len(logged(trainer, "diagnostics/masked_coherence")) == 2
    # Of 36 image tokens, a question about either image finds a whole block of 32 in the prefix cache
    for cached, others in zip(*(logged(trainer, f"reflection/{name}") for name in COUNTS), strict=True):
        assert cached >= 32 * 2 * others
    table = pd.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
    assert set(SWITCHED_COLUMNS) <= set(table)
    # The trained policy weighs alike on vLLM, whose log-probabilities here are processed ones, and on transformers
    thought, labels = parse(write_half_right(rows[0], 0)), EMOSET_8.labels
    questions = [consistency_question(thought, row["image"]) for row in rows[::2]]
    questions.append(coherence_question(thought, labels))
    with trainer.open_engine() as engine:
        weighed, _ = engine.weigh(questions)
    expected, _ = TransformersEngine(trainer.model, trainer.processing_class).weigh(questions)
    for one, other in zip(weighed, expected, strict=True):
        assert (one.answer, one.exact) == (other.answer, other.exact)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
