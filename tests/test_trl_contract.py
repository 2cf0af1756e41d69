"""The hooks of TRL that this project relies on. A failure here says which one moved, before anything subtle breaks."""

import inspect

import pytest
import trl
import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

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
    pytest.param(VLLMGeneration.generate, ["prompts", "images", "num_generations", "profiler"]),
    pytest.param(VLLMGeneration.sync_weights, []),
    pytest.param(VLLMGeneration._init_vllm, []),
    pytest.param(VLLMGeneration._iter_named_params, []),
]


@pytest.mark.parametrize(("hook", "parameters"), HOOKS, ids=lambda value: getattr(value, "__qualname__", None))
def test_a_hook_of_trl_takes_what_it_took(hook, parameters):
    found = [name for name in inspect.signature(hook).parameters if name != "self"]
    assert found == parameters, (
        f"TRL {trl.__version__} changed {hook.__qualname__}{tuple(found)}; this project was written for "
        f"{tuple(parameters)}. Install trl 1.16.*, or adapt emor3_trl/groups/trainer.py, emor3_trl/trainer.py and "
        "emor3_trl/engines/colocated.py."
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


def test_the_fused_head_still_reads_its_bias():
    assert "lm_head.weight, lm_head.bias" in inspect.getsource(trl_grpo.add_fused_lm_head)


def test_batches_are_still_shuffled_and_split_the_way_that_the_trainer_replaces():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    for call in ("split_pixel_values_by_grid(", "shuffle_sequence_dict(", "split_tensor_dict(", "_buffered_inputs"):
        assert call in source, f"TRL {trl.__version__} changed _prepare_inputs; compare GroupTrainer._prepare_inputs."
