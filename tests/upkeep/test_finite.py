"""A weight, a loss or a reward that is not finite stops the run, and leaves the checkpoints from before."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from training import SAVING, cold_start_trainer, lengths_differ, tiny_trainer
from transformers import AutoModelForImageTextToText

from emor3_trl.checksums import write_checksums
from emor3_trl.upkeep.finite import NotFiniteError, list_not_finite

GRPO = {"use_vllm": False, **SAVING}


@pytest.fixture
def broken_model(tiny_model_dir):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.model.language_model.layers[1].mlp.up_proj.weight.data[3, 5] = math.nan
    return model


def test_a_model_that_is_not_finite_is_not_trained(tiny_model_dir, broken_model, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, model=broken_model, **GRPO)
    with pytest.raises(NotFiniteError, match=r"^1 of 56 weights are not finite before step 1 \(first: .*up_proj"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from_and_an_earlier_one_is(tiny_model_dir, tmp_path):
    cold_start_trainer(tiny_model_dir, tmp_path, max_steps=2, **SAVING).train()
    broken, kept = tmp_path / "checkpoint-2", (tmp_path / "checkpoint-1" / "model.safetensors").read_bytes()
    weights = load_file(broken / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    write_checksums(broken)  # as a run that does not look at its weights would have saved it
    again = cold_start_trainer(tiny_model_dir, tmp_path, max_steps=3, **SAVING)
    with pytest.raises(NotFiniteError, match=r"not finite before step .*Delete '.*checkpoint-2' to go on from an earl"):
        again.train(resume_from_checkpoint=str(broken))
    assert not (tmp_path / "checkpoint-3").exists()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize("build", [tiny_trainer, cold_start_trainer], ids=["grpo", "cold-start"])
@pytest.mark.parametrize("options", [{}, {"lora": True}], ids=["full", "lora"])
def test_an_absurd_learning_rate_stops_the_run_and_leaves_what_was_saved(tiny_model_dir, tmp_path, build, options):
    engine = {"use_vllm": False} if build is tiny_trainer else {}
    trainer = build(tiny_model_dir, tmp_path, learning_rate=0.0, max_steps=6, **SAVING, **engine, **options)
    create = trainer.create_scheduler

    def rises(num_training_steps, optimizer=None):
        create(num_training_steps, optimizer)
        trainer.optimizer.optimizer.param_groups[0]["initial_lr"] = 1e38
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer.optimizer, lambda step: step > 1)

    trainer.create_scheduler = rises
    with pytest.raises(NotFiniteError, match=r"^(The loss|The probability|\d+ of \d+ weights).*Lower learning_rate"):
        trainer.train()
    saved = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert saved[0].name == "checkpoint-1"
    for file in saved[-1].glob("*.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())


def test_weights_that_give_vllm_nothing_to_sample_from_are_not_called_off_policy(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, learning_rate=1e37, max_steps=4)
    with pytest.raises(NotFiniteError, match="Lower learning_rate"):
        trainer.train()


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tiny_model_dir, tmp_path, monkeypatch):
    trainer = cold_start_trainer(tiny_model_dir, tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    stock = trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", lambda *args, **kwargs: stock(*args, **kwargs) * math.inf)
    with pytest.raises(NotFiniteError, match=r"The loss is inf in step 1\."):
        trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def broken_reward(value):
    def reward(completions, **columns):
        return [value, *lengths_differ(completions)[1:]]

    async def later(completions, **columns):
        return reward(completions)

    return reward, later


@pytest.mark.parametrize("later", [False, True], ids=["function", "asynchronous"])
@pytest.mark.parametrize(
    ("value", "stops"), [(math.inf, "inf"), (math.nan, "nan"), (-math.inf, "-inf"), (1e39, "inf"), (None, None)]
)
def test_a_reward_that_is_not_finite_stops_with_its_name(tiny_model_dir, tmp_path, value, stops, later):
    reward = broken_reward(value)[later]
    options = {**GRPO, "max_steps": 1, "reward_funcs": [lengths_differ, reward]}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **options)
    if stops is None:  # a completion that it does not judge
        trainer.train()
        return
    with pytest.raises(NotFiniteError, match=rf"The reward '{reward.__name__}' is {stops} for completion 0\."):
        trainer.train()


def test_each_process_looks_at_its_part_of_a_sharded_model(broken_model, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        fully_shard(broken_model)
        assert [name.split(".")[-2] for name in list_not_finite(broken_model)] == ["up_proj"]
    finally:
        torch.distributed.destroy_process_group()
