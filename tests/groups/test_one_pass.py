"""A rollout that is used once is scored once: what is trained and logged is what a pass of its own would give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scored_rollouts import OPTIONS, scored_completions
from training import launch_two, logged, tiny_trainer

from emor3_trl import EmoR3Trainer
from emor3_trl.engines.parity import OffPolicyError
from emor3_trl.groups.one_pass import GAP, RATIO, Comparison, OnePassTrainer
from emor3_trl.upkeep.finite import NotFiniteError

TOLERANCE = 1e-6


def train(model_dir: Path, folder: Path, monkeypatch, once: bool, **options: Any) -> dict[str, Any]:
    """Take three steps; return the trainer, the gaps that were judged, and how often the policy was scored for them."""
    judged: list[tuple[int, float]] = []
    passes = []
    stock = EmoR3Trainer._get_per_token_logps_and_entropies

    def counted(self, model, *args, **kwargs):
        if not torch.is_grad_enabled() and model is self.model:
            passes.append(self.state.global_step)
        return stock(self, model, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(EmoR3Trainer, "_generate_single_turn", scored_completions)
        patch.setattr(EmoR3Trainer, "_get_per_token_logps_and_entropies", counted)
        patch.setattr(EmoR3Trainer, "_judge_gap", lambda self, gap: judged.append((self.state.global_step, gap)))
        if not once:
            patch.setattr(OnePassTrainer, "_scores_once", False)
        trainer = tiny_trainer(model_dir, folder, **{**OPTIONS, **options})
        trainer.train()
    return {"trainer": trainer, "judged": judged, "passes": passes}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="truncated-tokens"),
        pytest.param(
            {
                "vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 2.0,
                "vllm_importance_sampling_clip_min": 0.5, "per_device_train_batch_size": 2, "lora": True,
                "gradient_accumulation_steps": 8, "steps_per_generation": 4, "importance_sampling_level": "sequence",
            },
            id="masked-completions-groups-cut-two-rollouts-an-update",
        ),
    ],
)  # fmt: skip
def test_one_pass_and_two_are_the_same_run(tiny_model_dir, tmp_path, monkeypatch, options):
    once, twice = (train(tiny_model_dir, tmp_path / str(once), monkeypatch, once, **options) for once in (True, False))
    # With LoRA, the reference is a pass of the same model
    assert len(twice["passes"]) - len(once["passes"]) == len(twice["judged"]) == len(once["judged"]) >= 3
    steps, gaps = zip(*once["judged"], strict=True)
    expected_steps, expected = zip(*twice["judged"], strict=True)
    assert steps == expected_steps  # judged in the step of the rollout, before its update
    assert gaps == pytest.approx(expected, rel=TOLERANCE)
    assert min(gaps) > 0.1  # there was something to correct
    names = ("loss", "grad_norm", "kl", "entropy", f"{GAP}/mean", f"{GAP}/max")
    for name in (*names, f"{RATIO}/min", f"{RATIO}/mean", f"{RATIO}/max"):
        values, wanted = logged(once["trainer"], name), logged(twice["trainer"], name)
        assert len(values) == 3, name
        assert values == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE), name
    for (name, found), weight in zip(
        once["trainer"].model.named_parameters(), twice["trainer"].model.parameters(), strict=True
    ):
        assert (found - weight).norm() <= TOLERANCE * weight.norm().clamp_min(1e-6), name


def test_a_gap_is_met_before_the_update_that_it_would_spoil(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", scored_completions)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **{**OPTIONS, "parity_stop": 0.01})
    start = [weight.detach().clone() for weight in trainer.model.parameters()]
    with pytest.raises(OffPolicyError, match="at step 0"):
        trainer.train()
    assert all(map(torch.equal, trainer.model.parameters(), start))
    # Nor does a weight that is no number reach the update, or the log
    trainer.parity.stop = 1e9
    damaged = next(trainer.model.parameters())
    with torch.no_grad():
        damaged.fill_(float("nan"))
    monkeypatch.setattr(trainer, "_check_weights", lambda *_: None)  # which else looks first
    with pytest.raises(NotFiniteError, match="log-probability"):
        trainer.train()


def test_an_engine_that_scores_nothing_is_seen_beside_skipped_groups():
    nan = float("nan")
    unscored = Comparison(gaps=[torch.full((5,), nan)], ratios=[torch.ones(5)], skipped=True).summarise()
    assert not unscored[0].isnan()  # else it would pass for a process that has left out all
    assert unscored[5] == 1.0  # and `_report_comparison` judges NaN
    left_out = Comparison(gaps=[torch.empty(0)], ratios=[torch.empty(0)], skipped=True).summarise()
    assert left_out.isnan().all()
    nothing_written = Comparison(gaps=[torch.empty(0)], ratios=[torch.empty(0)]).summarise()
    assert nothing_written[:5].tolist() == [0.0] * 5


def test_an_old_pass_stays_where_the_forward_is_another_one(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False)
    assert not trainer._scores_once  # in eval mode
    trainer.model.train()
    assert trainer._scores_once
    for name, value in {"num_iterations": 2, "shares_prefix": False}.items():
        stock = getattr(trainer, name)
        setattr(trainer, name, value)
        assert not trainer._scores_once, name
        setattr(trainer, name, stock)
    trainer.args.steps_per_generation = 2  # two updates from one rollout
    assert not trainer._scores_once
    trainer.args.steps_per_generation = 1
    trainer.model.lm_head.dropout = torch.nn.Dropout(0.1)
    assert not trainer._scores_once


@pytest.mark.slow
def test_two_ranks_compare_stop_and_skip_together(tiny_model_dir, tmp_path):
    script = str(Path(__file__).with_name("steps_of_two_ranks.py"))
    assert launch_two(tiny_model_dir, tmp_path, {}, script)["processes"] == 2
    ranks = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    entries = [entry for entry in ranks[0]["log"] if "loss" in entry]
    assert len(entries) == len(ranks[0]["gaps"][:2]) == 2
    for entry, *gaps in zip(entries, *(rank["gaps"][:2] for rank in ranks), strict=True):
        expected = sum(sum(gap) / len(gap) for gap in gaps) / 2
        assert entry[f"{GAP}/mean"] == pytest.approx(expected, rel=TOLERANCE)
        assert entry[f"{GAP}/max"] == pytest.approx(max(map(max, gaps)), rel=TOLERANCE)
    assert [rank["stopped"] for rank in ranks] == [True, True]
    skipping, whole = ([entry for entry in ranks[0]["runs"][name] if "loss" in entry] for name in ("skipping", "whole"))
    shares = [entry["rollout/skipped_share"] for entry in skipping]
    assert {0.5, 1.0} & set(shares)
    for entry, expected in zip(skipping, whole, strict=True):
        for name in ("loss", "grad_norm"):
            assert entry[name] == pytest.approx(expected[name], rel=TOLERANCE, abs=1e-7), name
    found, expected = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("skipping", "whole"))
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= TOLERANCE * weight.norm().clamp_min(1e-6), name
