"""The hooks of TRL that this project relies on. A failure here says which one moved, before anything subtle breaks."""

import inspect

import pytest
import trl
import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

HOOKS = [
    pytest.param(GRPOTrainer._calculate_rewards, ["inputs", "prompts", "completions", "completion_ids_list"]),
    pytest.param(GRPOTrainer._generate, ["prompts"]),
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
        f"{tuple(parameters)}. Install trl 1.16.*, or adapt emor3_trl/trainer.py and emor3_trl/rollout.py."
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
