"""Rollouts are on-policy: vLLM and the trainer agree on every sampled token, and the canary notices when they don't."""

import pytest
import torch
from training import launch_two, logged, tiny_trainer
from trl.generation.vllm_generation import VLLMGeneration

from emor3_trl import EmoR3Trainer
from emor3_trl.engines import colocated
from emor3_trl.engines.parity import OffPolicyError, ParityCanary

GAP = "sampling/sampling_logp_difference/mean"


def assert_on_policy(gaps: list[float], steps: int) -> None:
    assert len(gaps) == steps
    assert max(gaps) <= 1e-5, gaps


@pytest.mark.parametrize(
    ("tied", "options"),
    [
        pytest.param(True, {}, id="full-tied-vision-trained"),
        pytest.param(False, {}, id="full-untied"),
        pytest.param(True, {"lora": True}, id="lora-tied"),
        pytest.param(False, {"lora": True}, id="lora-untied"),
        pytest.param(True, {"freeze_vision_tower": True}, id="vision-frozen"),
        pytest.param(True, {"pictures": "most"}, id="rows-without-pictures"),
    ],
)
def test_vllm_and_trainer_agree_at_the_start_and_after_updates(
    tiny_model_dir, untied_model_dir, tmp_path, tied, options
):
    trainer = tiny_trainer(tiny_model_dir if tied else untied_model_dir, tmp_path, **options)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert_on_policy(logged(trainer, GAP), steps=4)
    still = [name for name, p in trainer.model.named_parameters() if name in before and torch.equal(p, before[name])]
    # The key bias of attention cancels in the softmax, so its gradient is zero up to rounding.
    assert [name for name in still if "k_proj.bias" not in name] == []
    assert any("visual" in name for name in before) is not options.get("freeze_vision_tower", False)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_parity_holds_after_resuming_from_a_checkpoint(tiny_model_dir, tmp_path, lora):
    tiny_trainer(tiny_model_dir, tmp_path, lora, max_steps=2, save_strategy="steps", save_steps=2).train()
    trainer = tiny_trainer(tiny_model_dir, tmp_path, lora, max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert_on_policy(logged(trainer, GAP), steps=4)


@pytest.mark.long
def test_parity_holds_in_two_processes_that_share_an_engine(tiny_model_dir, tmp_path):
    options = {"per_device_train_batch_size": 4, "vllm_tensor_parallel_size": 2}
    history = launch_two(tiny_model_dir, tmp_path, options)  # an engine each: tests/launchers
    assert history["processes"] == 2
    assert_on_policy([entry[GAP] for entry in history["log"] if GAP in entry], steps=4)


@pytest.mark.long
def test_parity_holds_for_fifty_steps(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=50)
    assert trainer.shares_prefix
    trainer.train()
    assert_on_policy(logged(trainer, GAP), steps=50)


def test_a_stale_weight_trips_the_canary(tiny_model_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_model_dir, tmp_path)
    engine = trainer.vllm_generation
    stock = type(engine)._iter_named_params
    monkeypatch.setattr(
        type(engine),
        "_iter_named_params",
        lambda self: (item for item in stock(self) if "layers.0.mlp" not in item[0]),
    )
    with pytest.raises(OffPolicyError, match="stale weights"):
        trainer.train()


def test_a_stale_encoder_cache_trips_the_canary(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(colocated.ColocatedEngine, "sync_weights", VLLMGeneration.sync_weights)
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=12)
    with pytest.raises(OffPolicyError, match="stale encoder cache"):
        trainer.train()
    assert trainer.state.global_step > 0  # the first rollouts were right: nothing was stale yet


def test_an_expanded_prompt_trips_the_canary(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(colocated, "collapse_image_tokens", lambda ids, image_token_id: ids)
    trainer = tiny_trainer(tiny_model_dir, tmp_path)
    with pytest.raises(OffPolicyError, match="expanded prompt"):
        trainer.train()


def test_an_engine_that_scores_nothing_trips_the_canary(tiny_model_dir, tmp_path, monkeypatch):
    stock = EmoR3Trainer._generate_single_turn

    def unscored(self, *args, **kwargs):
        completion_ids, log_probs = stock(self, *args, **kwargs)
        return completion_ids, [[None] * len(row) for row in log_probs]  # what TRL makes of NaN

    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", unscored)
    with pytest.raises(OffPolicyError, match="nan at step 0"):
        tiny_trainer(tiny_model_dir, tmp_path).train()


@pytest.mark.parametrize(
    ("dtype", "gaps", "trips"),
    [
        pytest.param("float32", [1e-6, 9e-5], False, id="fp32-rounding"),
        pytest.param("float32", [2e-4], True, id="fp32-at-once"),
        pytest.param("bfloat16", [0.015, 0.05, 0.09], False, id="bf16-healthy-or-warned"),
        pytest.param("bfloat16", [0.2, 0.2, 0.01, 0.2, 0.2], False, id="bf16-not-in-a-row"),
        pytest.param("bfloat16", [0.2, 0.2, 0.2], True, id="bf16-three-in-a-row"),
        pytest.param("float32", [float("nan")], True, id="nan"),
    ],
)
def test_the_expected_band_depends_on_the_dtype(dtype, gaps, trips):
    canary = ParityCanary.for_dtype(dtype, None, None, None)

    def run():
        for step, gap in enumerate(gaps):
            canary.check(gap, step)

    if trips:
        with pytest.raises(OffPolicyError, match="parity_stop"):
            run()
    else:
        run()


def test_a_gap_between_warning_and_stop_is_logged_with_the_causes(caplog):
    ParityCanary.for_dtype("bfloat16", None, None, None).check(0.05, step=7)
    assert "Step 7" in caplog.text
    assert "stale weights" in caplog.text
