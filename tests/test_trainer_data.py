"""Rows from wherever TRL takes them: two steps of the four rewards and reflection, and what is evaluated, of each."""

import pytest
from datasets import Dataset
from test_trainer import write_gold
from training import lengths_differ, logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.chat_template_utils import qwen3_vl_chat_template

from emor3_trl import EmoR3Config, EmoR3Trainer

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "num_generations_eval": 4}
REWARDS = ("accuracy_reward", "consistency_reward", "coherence_reward", "format_reward")


def read(row: dict) -> dict:
    """Stand for any function that a stream is mapped with."""
    return {"emotion": row["emotion"].lower()}


def stream(rows: Dataset):
    """Return the rows as a stream that is read when it is asked."""
    return rows.to_iterable_dataset().map(read)


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        pytest.param({"rows": tiny_dataset().map(read)}, 0, id="mapped", marks=pytest.mark.slow),
        pytest.param({"rows": stream(tiny_dataset())}, 0, id="mapped-stream"),
        pytest.param({"eval_rows": tiny_dataset().select([0])}, 2, id="eval_dataset"),
        pytest.param({"eval_rows": stream(tiny_dataset().select([0]))}, 2, id="eval-stream"),
        pytest.param(
            {"eval_rows": {"own": tiny_dataset().select([0]), "other": tiny_dataset().select([1])}},
            4,  # TRL logs each set by itself, under the same names
            id="eval_datasets",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_steps_reward_and_reflect(tiny_model_dir, tmp_path, monkeypatch, options, evaluations):
    options = {**options, **(EVALUATED if "eval_rows" in options else {})}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=None, max_steps=2, use_vllm=False, **options)
    write_gold(trainer, monkeypatch)
    trainer.train()
    assert trainer.state.global_step == 2
    for prefix, count in (("", 2), ("eval_", evaluations)):
        assert all(requests > 0 for requests in logged(trainer, f"{prefix}reflection/requests"))
        for name in ("reflection/requests", *(f"rewards/{reward}/mean" for reward in REWARDS)):
            assert len(logged(trainer, f"{prefix}{name}")) == count


@pytest.mark.parametrize(
    "form", [lambda rows: rows, stream, lambda rows: {"own": rows}], ids=["rows", "stream", "dict"]
)
def test_rows_that_evaluate_is_given_are_rewarded(tiny_model_dir, tmp_path, monkeypatch, form):
    options = {"per_device_eval_batch_size": 4, "num_generations_eval": 4}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=None, use_vllm=False, **options)
    write_gold(trainer, monkeypatch)
    metrics = trainer.evaluate(form(tiny_dataset().select([0])))
    assert metrics["eval_rewards/format_reward/mean"] == 1.0
    assert metrics["eval_reflection/requests"] > 0


class Gallery:
    """An environment with a tool that no random model calls, and a reward of its own."""

    def reset(self, **columns) -> None:
        """Begin anew."""
        self.labels = list(columns["label_space"])

    def describe(self, place: str) -> str:
        """Describe a place.

        Args:
            place: where it is.

        Returns:
            What is seen there.
        """
        return f"{place}: {self.labels}"

    def get_reward(self) -> float:
        """Return what varies."""
        return float(len(self.labels))


@pytest.mark.parametrize(
    ("reward_funcs", "names"),
    [(None, ["Gallery"]), (lengths_differ, ["lengths_differ", "Gallery"])],
    ids=["its-own-reward", "and-another"],
)
def test_two_steps_in_an_environment(tiny_model_dir, tmp_path, reward_funcs, names):
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    processor.chat_template = qwen3_vl_chat_template  # one that knows tools
    args = EmoR3Config(
        str(tmp_path), use_cpu=True, bf16=False, use_vllm=False, report_to=[], max_steps=2, logging_steps=1,
        per_device_train_batch_size=8, num_generations=4, max_completion_length=16, lambda1=0.0, save_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    trainer = EmoR3Trainer(model, reward_funcs, args, tiny_dataset(), None, processor, environment_factory=Gallery)
    trainer.train()
    assert trainer.reward_func_names == names
    assert len(logged(trainer, "rewards/Gallery/mean")) == 2
    assert min(logged(trainer, "rewards/Gallery/mean")) >= 3
