"""The hooks of TRL that this project relies on. A failure here says which one moved, before anything subtle breaks."""

import inspect
import re

import pytest
import transformers
import trl
import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from emor3_trl.groups.rows import OF_IMAGES
from emor3_trl.upkeep.resuming import STATE

HOOKS = [
    pytest.param(
        GRPOTrainer._get_per_token_logps_and_entropies,
        [
            "model",
            "input_ids",
            "attention_mask",
            "logits_to_keep",
            "batch_size",
            "compute_entropy",
            "compute_aux_loss",
            "pixel_values",
            "image_grid_thw",
            "num_images",
            "pixel_attention_mask",
            "spatial_shapes",
            "num_tiles",
            "image_sizes",
            "token_type_ids",
            "mm_token_type_ids",
            "image_position_ids",
        ],
    ),
    pytest.param(GRPOTrainer._calculate_rewards, ["inputs", "prompts", "completions", "completion_ids_list"]),
    pytest.param(GRPOTrainer._generate, ["prompts"]),
    pytest.param(
        GRPOTrainer._generate_single_turn,
        ["prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
    ),
    pytest.param(GRPOTrainer._tokenize_prompts, ["prompts"]),
    pytest.param(GRPOTrainer._prepare_inputs, ["generation_batch"]),
    pytest.param(GRPOTrainer._generate_and_score_completions, ["inputs"]),
    pytest.param(GRPOTrainer._log_completion_extra, ["column", "values"]),
    pytest.param(GRPOTrainer._log_metric, ["name", "value"]),
    pytest.param(GRPOTrainer.log, ["logs", "start_time"]),
    pytest.param(VLLMGeneration.generate, ["prompts", "images", "num_generations", "profiler"]),
    pytest.param(VLLMGeneration.sync_weights, []),
    pytest.param(VLLMGeneration._init_vllm, []),
    pytest.param(VLLMGeneration._iter_named_params, []),
    pytest.param(VLLMClient.init_communicator, ["device"]),
    pytest.param(VLLMClient.update_named_params, ["metadata", "named_params"]),
    pytest.param(VLLMClient._start_weight_update, []),
    pytest.param(VLLMClient._finish_weight_update, []),
    pytest.param(Trainer._load_from_checkpoint, ["resume_from_checkpoint", "model"]),
    pytest.param(Trainer._load_best_model, []),
    pytest.param(Trainer._prepare_for_training, ["max_steps", "train_dataloader", "resume_from_checkpoint"]),
    pytest.param(
        Trainer._run_epoch,
        [
            "model",
            "epoch",
            "train_dataloader",
            "steps_in_epoch",
            "num_update_steps_per_epoch",
            "trial",
            "ignore_keys_for_eval",
            "start_time",
            "resume_from_checkpoint",
            "epochs_trained",
            "steps_trained_in_current_epoch",
        ],
    ),
    pytest.param(Trainer._finalize_training, ["trial", "num_train_samples", "start_time"]),
    pytest.param(Trainer._save_checkpoint, ["model", "trial"]),
    pytest.param(GRPOTrainer._compute_loss, ["model", "inputs"]),
    pytest.param(GRPOTrainer.create_model_card, ["model_name", "dataset_name", "tags"]),
    pytest.param(SFTTrainer.create_model_card, ["model_name", "dataset_name", "tags"]),
    pytest.param(Trainer._save_rng_state, ["output_dir"]),
    pytest.param(Trainer._load_rng_state, ["checkpoint"]),
    pytest.param(Trainer._save, ["output_dir", "state_dict"]),
    pytest.param(Trainer.training_step, ["model", "inputs", "num_items_in_batch"]),
]


@pytest.mark.parametrize(("hook", "parameters"), HOOKS, ids=lambda value: getattr(value, "__qualname__", None))
def test_a_hook_of_trl_takes_what_it_took(hook, parameters):
    found = [name for name in inspect.signature(hook).parameters if name != "self"]
    assert found == parameters, (
        f"TRL {trl.__version__} or transformers {transformers.__version__} changed {hook.__qualname__}{tuple(found)}; "
        f"this project was written for {tuple(parameters)}. Install the pinned versions, or adapt "
        "emor3_trl/groups/trainer.py, emor3_trl/trainer.py, emor3_trl/engines/colocated.py and emor3_trl/upkeep/."
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [pytest.param(trl_grpo, "VLLMGeneration", id="trainer"), pytest.param(trl_vllm, "LLM", id="engine")],
)
def test_trl_looks_up_what_is_replaced_by_name_in_that_module(module, name):
    assert hasattr(module, name)
    assert f"{name}(" in inspect.getsource(module)


def test_the_trainer_puts_the_sampling_gap_where_the_canary_reads_it():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert '"sampling/sampling_logp_difference/mean"' in source


def test_the_loss_reads_the_ratio_after_it_has_scored_the_policy():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    scored = source.index("self._get_per_token_logps_and_entropies(")
    assert source.count("self._get_per_token_logps_and_entropies(") == 1
    for name in (
        'inputs.get("old_per_token_logps")',
        'inputs["importance_sampling_ratio"]',
        'inputs["ref_per_token_logps"]',
    ):
        assert source.index(name) > scored, (
            f"TRL {trl.__version__} changed _compute_loss; compare one_pass and skipping."
        )
    for name in ("entropy", "kl"):  # which are averaged again over what was computed
        assert f'["{name}"].append(global_masked_mean(' in source


def test_the_fused_head_still_reads_its_bias():
    assert "lm_head.weight, lm_head.bias" in inspect.getsource(trl_grpo.add_fused_lm_head)


def test_batches_are_still_shuffled_and_split_the_way_that_the_trainer_replaces():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    for call in ("split_pixel_values_by_grid(", "shuffle_sequence_dict(", "split_tensor_dict(", "_buffered_inputs"):
        assert call in source, f"TRL {trl.__version__} changed _prepare_inputs; compare GroupTrainer._prepare_inputs."


def test_a_rollout_holds_what_rows_of_several_rollouts_are_merged_from():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    built = source[source.rindex("output = {") :]
    names = set(re.findall(r'^ +"(\w+)": |output\["(\w+)"\] = ', built, re.MULTILINE))
    known = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"}
    known |= {"old_per_token_logps", "importance_sampling_ratio", "sampling_per_token_logps", "ref_per_token_logps"}
    assert {name for pair in names for name in pair if name} == known | {"tool_mask"} | OF_IMAGES, (
        f"TRL {trl.__version__} changed what a rollout holds; compare emor3_trl/groups/rows.py, which pads it."
    )


def test_the_state_of_a_run_is_kept_under_the_names_that_the_trainers_use():
    source = "".join(map(inspect.getsource, (Trainer, GRPOTrainer, SFTTrainer)))
    assert [name for name in STATE if f"self.{name} = " not in source] == []


def test_a_checkpoint_is_complete_when_the_trainer_s_state_is_written():
    source = inspect.getsource(Trainer._save_checkpoint)
    order = [source.index(f"{call}(") for call in ("save_model", "_save_optimizer_and_scheduler", "_save_rng_state")]
    assert [*order, source.index("save_to_json(")] == sorted([*order, source.index("save_to_json(")])


def test_the_random_state_is_restored_before_the_first_step_of_a_resumed_run():
    source = inspect.getsource(Trainer._run_epoch)
    assert source.rindex("self._load_rng_state(") < source.index("self.training_step(")
    assert source.index("self._maybe_log_save_evaluate(") > source.index("self.optimizer.step(")
