"""A completion, a prompt or a column may hold anything, and none of it moves the terminal's cursor."""

import pandas as pd
import pytest
from training import tiny_dataset, tiny_trainer
from trl import GRPOTrainer

HOSTILE = "x\x1b[2J\x9b1mjoy"


def name_columns(completions, log_extra=None, **columns):
    """A reward that logs what it was told, and varies."""
    log_extra("told\x1b[2J", [HOSTILE for _ in completions])
    return [float(row % 3) for row in range(len(completions))]


@pytest.mark.parametrize("shown", [None, 2], ids=["all", "some"])
def test_no_control_character_of_a_completion_reaches_the_terminal(
    tiny_model_dir, tmp_path, monkeypatch, capsys, shown
):
    def write_hostile(self, prompt_ids, *args, **kwargs):
        ids = self.processing_class.tokenizer(HOSTILE)["input_ids"]
        return [[*ids, self.processing_class.tokenizer.eos_token_id] for _ in prompt_ids], None

    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write_hostile)
    rows = tiny_dataset().map(lambda row: {"prompt": [{"role": "user", "content": HOSTILE}]})
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, rows=rows, max_steps=1, use_vllm=False, lambda1=0.0, log_completions=True,
        num_completions_to_print=shown, reward_funcs=name_columns,
    )  # fmt: skip
    trainer.train()
    printed = "".join(capsys.readouterr())
    assert "Step 1" in printed
    assert "\x1b" not in printed.replace("\x1b[A", "")  # a progress bar's own
    assert "\x9b" not in printed
    assert r"x\x1b[2J\x9b1mjoy" in printed
    assert trainer.num_completions_to_print == shown
    table = pd.concat(pd.read_parquet(file) for file in (tmp_path / "completions").glob("*.parquet"))
    assert HOSTILE in str(table["completion"].iloc[0][0]["content"])  # the file keeps what was written


def test_without_rich_nothing_is_printed_and_training_goes_on(tiny_model_dir, tmp_path, monkeypatch):
    for module in ("trl.trainer.grpo_trainer", "trl.trainer.utils", "emor3_trl.upkeep.printing"):
        monkeypatch.setattr(f"{module}.is_rich_available", lambda: False)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=1, use_vllm=False, lambda1=0.0, log_completions=True)
    trainer.train()
    assert list((tmp_path / "completions").glob("*.parquet"))
