"""A run that was stopped and goes on ends as one that was never stopped, to the last bit."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import load_fsdp_model, save_fsdp_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from training import SAVING, cold_start_trainer, launch_two, spread_only_on, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, TrainerCallback
from transformers.trainer import get_fsdp_ckpt_kwargs

from emor3_trl.upkeep.resuming import load_weights

TIMES = re.compile(r"(eval_)?time/|.*(runtime|(samples|steps|tokens)_per_second|step_time|seconds)$")


def outcome(trainer) -> dict:
    """Return all that a run ends with: weights, optimizer, schedule, random state, and what it logged."""
    log = [{key: value for key, value in entry.items() if not TIMES.match(key)} for entry in trainer.state.log_history]
    return {
        "weights": {name: weight.clone() for name, weight in trainer.model.state_dict().items()},
        "optimizer": trainer.optimizer.state_dict()["state"],
        "schedule": trainer.lr_scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "log": log,
    }


def assert_same(resumed: dict, uninterrupted: dict) -> None:
    """Compare two outcomes bit by bit."""
    assert resumed["weights"].keys() == uninterrupted["weights"].keys()
    differing = [
        name for name, weight in uninterrupted["weights"].items() if not torch.equal(weight, resumed["weights"][name])
    ]
    assert differing == []
    for key, state in uninterrupted["optimizer"].items():
        for name, value in state.items():
            assert torch.equal(value, resumed["optimizer"][key][name]), (key, name)
    assert resumed["schedule"] == uninterrupted["schedule"]
    assert torch.equal(resumed["random"], uninterrupted["random"])
    for resumed_entry, entry in zip(resumed["log"], uninterrupted["log"], strict=True):
        assert resumed_entry == entry


def pretrained_adapter_trainer(model_dir: Path, output_dir: Path, **options):
    """Return a trainer on an adapter that was trained before, of which TRL keeps a copy as the reference."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
    torch.manual_seed(3)
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return tiny_trainer(model_dir, output_dir, model=adapter, **options)


GRPO = {"use_vllm": False, "max_steps": 5, "beta": 0.04}
SAMPLED = {**GRPO, "dynamic_sampling": "spread", "reward_funcs": spread_only_on("0", "3", "6")}
SLOW, LONG = pytest.mark.slow, pytest.mark.long


@pytest.mark.parametrize(
    ("build", "options", "step"),
    [
        pytest.param(tiny_trainer, GRPO, 2, id="grpo-full"),
        pytest.param(tiny_trainer, {**GRPO, "lora": True, "freeze_vision_tower": True}, 2, id="grpo-lora-frozen-tower"),
        pytest.param(tiny_trainer, {**GRPO, "max_steps": 7}, 6, id="grpo-second-epoch"),
        pytest.param(tiny_trainer, {**GRPO, "num_iterations": 2}, 3, id="grpo-within-a-rollout"),
        pytest.param(tiny_trainer, {**GRPO, "sync_ref_model": True, "ref_model_sync_steps": 2}, 3, id="grpo-synced"),
        pytest.param(tiny_trainer, SAMPLED, 2, id="grpo-sampled-dynamically"),
        pytest.param(tiny_trainer, {**SAMPLED, "num_iterations": 2}, 3, id="grpo-sampled-within-a-rollout"),
        pytest.param(tiny_trainer, GRPO, 5, id="grpo-killed-after-its-last-step"),
        pytest.param(pretrained_adapter_trainer, GRPO, 2, id="grpo-adapter-with-its-reference"),
        pytest.param(cold_start_trainer, {}, 2, id="cold-start-full"),
        pytest.param(cold_start_trainer, {"lora": True}, 4, id="cold-start-lora-second-epoch"),
        pytest.param(tiny_trainer, {**GRPO, "lora": True}, 2, id="grpo-lora", marks=SLOW),
        pytest.param(tiny_trainer, {**GRPO, "freeze_vision_tower": True}, 2, id="grpo-frozen-tower", marks=LONG),
        pytest.param(tiny_trainer, {**GRPO, "max_steps": 8}, 4, id="grpo-end-of-epoch", marks=SLOW),
        pytest.param(tiny_trainer, {**GRPO, "max_steps": 4}, 4, id="grpo-killed-after-its-last-epoch", marks=SLOW),
        pytest.param(
            tiny_trainer,
            {**GRPO, "steps_per_generation": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            3,
            id="grpo-within-a-rollout-of-two-updates",
            marks=SLOW,
        ),
        pytest.param(
            tiny_trainer, {**GRPO, "logging_steps": 3, "max_steps": 6}, 2, id="grpo-between-two-logs", marks=LONG
        ),
        pytest.param(
            tiny_trainer, {**GRPO, "lr_scheduler_type": "cosine", "warmup_steps": 2}, 1, id="grpo-cosine", marks=LONG
        ),
        pytest.param(
            tiny_trainer, {**GRPO, "rows": tiny_dataset().to_iterable_dataset()}, 2, id="grpo-stream", marks=SLOW
        ),
        pytest.param(cold_start_trainer, {"freeze_vision_tower": True}, 4, id="cold-start-frozen-tower", marks=LONG),
        pytest.param(cold_start_trainer, {}, 5, id="cold-start-killed-after-its-last-step", marks=SLOW),
        pytest.param(tiny_trainer, {**GRPO, "use_vllm": True}, 2, id="vllm-full", marks=SLOW),
        pytest.param(tiny_trainer, {**SAMPLED, "use_vllm": True}, 2, id="vllm-sampled-dynamically", marks=LONG),
        pytest.param(
            tiny_trainer,
            {**SAMPLED, "use_vllm": True, "num_iterations": 2, "dynamic_sampling_tries": 2},
            3,
            id="vllm-sampled-starving-within-a-rollout",
            marks=SLOW,
        ),
        pytest.param(tiny_trainer, {**GRPO, "use_vllm": True, "lora": True}, 2, id="vllm-lora", marks=LONG),
        pytest.param(
            tiny_trainer, {**GRPO, "use_vllm": True, "freeze_vision_tower": True}, 2, id="vllm-frozen-tower", marks=LONG
        ),
        pytest.param(
            tiny_trainer, {**GRPO, "use_vllm": True, "num_iterations": 2}, 3, id="vllm-within-a-rollout", marks=SLOW
        ),
        pytest.param(
            tiny_trainer,
            {**GRPO, "use_vllm": True, "eval_strategy": "steps", "eval_steps": 1, "reward_funcs": None},
            2,
            id="vllm-evaluated-and-reflected",
            marks=SLOW,
        ),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny_model_dir, tmp_path, build, options, step):
    whole = build(tiny_model_dir, tmp_path / "whole", **SAVING, **options)
    whole.train()
    expected = outcome(whole)
    torch.manual_seed(17)  # another process starts with another random state
    resumed = build(tiny_model_dir, tmp_path / "resumed", **SAVING, **options)
    trainable = [name for name, parameter in resumed.model.named_parameters() if parameter.requires_grad]
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert resumed.state.global_step == options.get("max_steps", 5)
    assert_same(outcome(resumed), expected)
    assert trainable == [name for name, parameter in resumed.model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("build", "options"),
    [
        pytest.param(tiny_trainer, GRPO, id="grpo-full"),
        pytest.param(tiny_trainer, {**GRPO, "lora": True}, id="grpo-lora"),
        pytest.param(cold_start_trainer, {}, id="cold-start-full"),
    ],
)
def test_the_best_model_has_the_weights_that_were_best(tiny_model_dir, tmp_path, build, options):
    trainer = build(tiny_model_dir, tmp_path, **SAVING, **options)
    kept = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                kept.update({name: weight.clone() for name, weight in trainer.model.state_dict().items()})

    trainer.add_callback(Keep())
    trainer.train()
    assert any(not torch.equal(weight, kept[name]) for name, weight in trainer.model.state_dict().items())
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    trainer._load_best_model()
    assert all(torch.equal(weight, kept[name]) for name, weight in trainer.model.state_dict().items())
    if build is tiny_trainer:
        assert trainer._last_loaded_step != trainer.state.global_step  # vLLM gets them before it writes again


def test_weights_that_do_not_fit_are_refused(tiny_model_dir, untied_model_dir):
    model = AutoModelForImageTextToText.from_pretrained(untied_model_dir, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"does not fit the model: 1 missing keys, such as lm_head\.weight"):
        load_weights(model, tiny_model_dir)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_files_of_fsdp2_hold_the_model_s_own_names(tiny_model_dir, tmp_path, lora):
    PartialState(cpu=True)  # for Accelerate's logger
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
        if lora:
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        fully_shard(model)
        before = {name: weight.full_tensor().clone() for name, weight in model.named_parameters()}
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="FULL_STATE_DICT")
        alone = SimpleNamespace(
            num_processes=1, process_index=0, is_main_process=True, is_fsdp2=True, wait_for_everyone=lambda: None
        )
        save_fsdp_model(plugin, alone, model, str(tmp_path), **get_fsdp_ckpt_kwargs())
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 1.0
        load_fsdp_model(plugin, alone, model, str(tmp_path), **get_fsdp_ckpt_kwargs())
        assert all(torch.equal(weight.full_tensor(), before[name]) for name, weight in model.named_parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_a_token_is_not_in_a_checkpoint(tiny_model_dir, tmp_path):
    trainer = cold_start_trainer(tiny_model_dir, tmp_path, max_steps=1, hub_token="hf_secret", **SAVING)
    trainer.train()
    trainer.save_model()
    assert trainer.args.hub_token == "hf_secret"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"training_args.bin", "trainer_state.json"} <= {file.name for file in files}
    assert [file for file in files if b"hf_secret" in file.read_bytes()] == []


def test_a_run_that_goes_on_after_its_last_step_leaves_its_files_as_they_are(tiny_model_dir, tmp_path):
    options = {**GRPO, "max_steps": 1, "log_completions": True, "num_completions_to_print": 0, **SAVING}
    contents = []
    for checkpoint in (None, str(tmp_path / "run" / "checkpoint-1")):
        trainer = tiny_trainer(tiny_model_dir, tmp_path / "run", **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        files = ("completions/completions_00001.parquet", "tokenizer.json", "checkpoint-1/tokenizer.json")
        contents.append([(tmp_path / "run" / file).read_bytes() for file in files])
    assert contents[0] == contents[1]


def test_a_rollout_finds_empty_caches_whatever_was_evaluated_before(tiny_model_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, side=168, eval_strategy="steps", per_device_eval_batch_size=8)
    llm = trainer.vllm_generation.llm
    pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    found = []
    generate = llm.generate

    def counted(*args, **kwargs):
        found.append(len(pool.cached_block_hash_to_block))
        return generate(*args, **kwargs)

    monkeypatch.setattr(llm, "generate", counted)
    trainer.evaluate()
    trainer.evaluate()
    assert found == [0] * 8
    assert len(pool.cached_block_hash_to_block) > 0  # the last rollout's


@pytest.mark.long
def test_two_processes_resume_among_batches_that_were_refilled(tiny_model_dir, tmp_path):
    options = {**GRPO, "per_device_train_batch_size": 4, "fixed": True, "dynamic_sampling": "spread", **SAVING}
    options |= {"spread_only_on": ["0", "3", "6"], "num_iterations": 2}
    outcomes = []
    for folder, checkpoint in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-3"))):
        result = launch_two(tiny_model_dir, tmp_path / folder, {**options, "checkpoint": checkpoint})
        tries = [entry["rollout/tries"] for entry in result["log"] if "rollout/tries" in entry]
        outcomes.append((load_file(tmp_path / folder / "model.safetensors"), tries))
    (whole, tries), (resumed, same_tries) = outcomes
    assert max(tries) > 1
    assert same_tries == tries
    assert [name for name, weight in whole.items() if not torch.equal(resumed[name], weight)] == []
