"""Groups without an advantage cost no forward, and the run is the same: losses, gradients, weights, optimizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import fixed_completions, logged, spread_only_on, tiny_trainer
from trl import GRPOTrainer

from emor3_trl import EmoR3Trainer
from emor3_trl.groups import packing
from emor3_trl.groups.config import GroupConfig
from emor3_trl.groups.skipping import SkippingTrainer

TOLERANCE = 1e-6
OPTIONS: dict[str, Any] = {
    "use_vllm": False, "beta": 0.0, "learning_rate": 1e-4, "lambda1": 0.0, "max_grad_norm": 1e9, "adam_epsilon": 1e-5,
    "max_steps": 4,
}  # fmt: skip


def train(model_dir: Path, folder: Path, monkeypatch, skips: bool, **options: Any) -> tuple[EmoR3Trainer, int]:
    """Take four steps, in which one row's group has a spread; return the trainer and the tokens of its forwards."""
    tokens = []
    stock = packing.pack

    def counted(*args, **kwargs):
        row = stock(*args, **kwargs)
        tokens.append(row.input_ids.shape[1])
        return row

    with monkeypatch.context() as patch:
        patch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
        patch.setattr(packing, "pack", counted)
        if not skips:
            patch.setattr(SkippingTrainer, "_skips_groups", False)
        options = {**OPTIONS, "reward_funcs": spread_only_on("0", "5"), **options}
        trainer = tiny_trainer(model_dir, folder, **options)
        trainer.train()
    return trainer, sum(tokens)


def assert_same_weights(found: EmoR3Trainer, expected: EmoR3Trainer) -> None:
    for (name, weight), wanted in zip(found.model.named_parameters(), expected.model.parameters(), strict=True):
        assert (weight - wanted).norm() <= TOLERANCE * wanted.norm().clamp_min(1e-6), name
        state, wanted_state = found.optimizer.state.get(weight), expected.optimizer.state.get(wanted)
        assert (state is None) is (wanted_state is None), name
        for moment in ("step", "exp_avg", "exp_avg_sq") if state else ():
            difference = (state[moment] - wanted_state[moment]).norm()
            assert difference <= 1e-5 * wanted_state[moment].norm().clamp_min(1e-6), (name, moment)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"loss_type": "bnpo", "weight_decay": 0.1}, id="bnpo"),
        pytest.param({"loss_type": "grpo", "pictures": "most"}, id="grpo-rows-without-pictures"),
        pytest.param({"loss_type": "dr_grpo", "pictures": "none"}, id="dr_grpo-no-pictures"),
        pytest.param(
            {"loss_type": "dapo", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
            id="dapo-groups-cut",
        ),
        pytest.param({"loss_type": "cispo", "epsilon_high": 5.0, "delta": None, "lora": True}, id="cispo-lora"),
        pytest.param({"num_iterations": 2}, id="two-iterations", marks=pytest.mark.slow),
        pytest.param({"loss_type": "sapo", "gradient_checkpointing": True}, id="sapo", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_skips_is_the_run_that_does_not(tiny_model_dir, tmp_path, monkeypatch, options):
    (skipping, tokens), (whole, all_tokens) = (
        train(tiny_model_dir, tmp_path / str(skips), monkeypatch, skips, **options) for skips in (True, False)
    )
    shares = logged(skipping, "rollout/skipped_share")
    assert 1.0 in shares  # a step without any advantage
    assert min(shares) <= 0.5
    assert logged(whole, "rollout/skipped_share") == []
    assert tokens < 0.7 * all_tokens
    for name in ("loss", "grad_norm", "clip_ratio/region_mean"):
        assert logged(skipping, name) == pytest.approx(logged(whole, name), rel=TOLERANCE, abs=1e-7), name
    moved = [state["step"].item() for state in skipping.optimizer.state.values()]
    assert set(moved) <= {4.0, 3.0, 2.0, 1.0}
    assert_same_weights(skipping, whole)


def test_flat_groups_may_give_up_their_kl(tiny_model_dir, tmp_path, monkeypatch):
    """The whole computation is told that the reference agrees with the policy on these rows: no KL, no gradient."""
    options = {"beta": 0.3, "reward_funcs": spread_only_on("0", "1", "2", "3")}
    skipping, tokens = train(tiny_model_dir, tmp_path / "skipping", monkeypatch, True, skip_flat_groups=True, **options)
    stock_loss, stock_scores = GRPOTrainer._compute_loss, EmoR3Trainer._get_per_token_logps_and_entropies

    def loss(self, model, inputs):
        self.told = inputs
        return stock_loss(self, model, inputs)

    def scores(self, model, *args, **kwargs):
        found = stock_scores(self, model, *args, **kwargs)
        if torch.is_grad_enabled():
            flat = self.told["advantages"].view(-1, 4).abs().amax(dim=1).repeat_interleave(4) == 0
            self.told["ref_per_token_logps"][flat] = found[0].detach()[flat]
        return found

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss)
    monkeypatch.setattr(EmoR3Trainer, "_get_per_token_logps_and_entropies", scores)
    whole, all_tokens = train(tiny_model_dir, tmp_path / "whole", monkeypatch, False, **options)
    shares = logged(skipping, "rollout/skipped_share")
    assert 0 < sum(shares) < len(shares)
    assert tokens < all_tokens
    for name in ("loss", "grad_norm"):
        assert logged(skipping, name) == pytest.approx(logged(whole, name), rel=TOLERANCE, abs=1e-7), name
    assert_same_weights(skipping, whole)


def test_a_mean_that_rounds_is_no_advantage(tiny_model_dir, tmp_path, monkeypatch):
    def fair(completions: list, **columns: Any) -> list[float]:
        return [0.9] * len(completions)

    options = {"reward_funcs": fair, "num_generations": 8, "max_steps": 1}
    rounded, _ = train(tiny_model_dir, tmp_path / "rounded", monkeypatch, True, **options)
    assert logged(rounded, "rollout/skipped_share") == [0.0]
    assert logged(rounded, "grad_norm")[0] > 0  # TRL's: the mean of eight 0.9 is not 0.9
    flat, _ = train(tiny_model_dir, tmp_path / "flat", monkeypatch, True, skip_flat_groups=True, **options)
    assert logged(flat, "rollout/skipped_share") == [1.0]
    assert logged(flat, "grad_norm") == [0.0]


def test_means_are_of_what_was_computed(tiny_model_dir, tmp_path, monkeypatch):
    skipping, _ = train(tiny_model_dir, tmp_path / "skipping", monkeypatch, True)
    whole, _ = train(tiny_model_dir, tmp_path / "whole", monkeypatch, False)
    for entry, expected in zip(skipping.state.log_history, whole.state.log_history, strict=True):
        if "loss" not in entry:
            continue
        if entry["rollout/skipped_share"] == 1.0:
            assert entry["entropy"] is None
        else:
            assert entry["entropy"] == pytest.approx(expected["entropy"], rel=0.05)
            assert entry["entropy"] > 5  # of 600 tokens that are all alike: a mean over all rows would be half of it


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shared_prefix": False}, "shared_prefix"),
        ({"entropy_coef": 0.01}, "entropy_coef"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile"),
        ({"loss_type": "vespo"}, "vespo"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "compares groups"),
    ],
)
def test_the_switch_is_refused_where_it_does_nothing(tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason) as error:
        GroupConfig(str(tmp_path), skip_flat_groups=True, bf16=False, use_cpu=True, **options)
    assert len(str(error.value)) < 300
    GroupConfig(str(tmp_path), bf16=False, use_cpu=True, **options)
