"""What a configuration refuses wherever it is made: in Python as on the command line, before a model loads."""

from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from training import tiny_dataset
from transformers import AutoModelForImageTextToText
from trl import ModelConfig

from emor3_trl import EmoR3Trainer, config
from emor3_trl.cold_start import ColdStartConfig, build_cold_start_trainer
from emor3_trl.config import EmoR3Config
from emor3_trl.config_checks import check_adapter
from emor3_trl.rewards import accuracy_reward
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import UserError

CPU = {"bf16": False, "use_cpu": True, "report_to": "none"}
NO_ENGINE = {**CPU, "use_vllm": False}


def refuse_in_python(config: type, folder: Path, settings: dict) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller reads the message)
        config(output_dir=str(folder), **settings)
    return str(error.value)


def refuse_on_the_command_line(config: type, folder: Path, settings: dict) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"data": "d", "output_dir": str(folder), **settings}))
    with pytest.raises(UserError) as error:
        parse_arguments((RunArguments, ModelConfig, config), argv=["--config", str(path)])
    return str(error.value)


BOTH = [
    pytest.param({"learning_rate": -1.0}, "learning_rate is -1.0. Expected 0 or more", id="negative rate"),
    pytest.param({"learning_rate": float("nan")}, "learning_rate is nan. Expected 0 or more", id="rate of nan"),
    pytest.param({"num_train_epochs": 0}, "num_train_epochs is 0", id="no epoch"),
    pytest.param({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0. Expected 1", id="no row"),
    pytest.param({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0. Expected 1", id="no step"),
    pytest.param({"max_steps": 0}, "max_steps is 0. Expected 1 or more, or -1 to train", id="no steps"),
    pytest.param({"max_steps": -3}, "max_steps is -3. Expected 1 or more, or -1", id="negative steps"),
    pytest.param({"max_grad_norm": -1.0}, "max_grad_norm is -1.0. Expected 0 or more", id="negative norm"),
    pytest.param({"neftune_noise_alpha": -5.0}, "neftune_noise_alpha is -5.0. Expected 0", id="negative noise"),
    pytest.param({"weight_decay": -0.1}, "weight_decay is -0.1. Expected 0 or more", id="negative decay"),
    pytest.param({"adam_beta2": 1.0}, "adam_beta2 is 1.0. Expected 0 or more, and less than 1", id="beta of Adam"),
]

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
BEST = [
    pytest.param({"save_strategy": "best", "metric_for_best_model": "loss"}, "save_strategy is 'best', but eval"),
    pytest.param({"load_best_model_at_end": True, "save_strategy": "no"}, "load_best_model_at_end is true, but ev"),
    pytest.param({"metric_for_best_model": "loss"}, "metric_for_best_model is 'loss', but eval_strategy is 'no'"),
    pytest.param({**EVALUATED, "save_strategy": "best"}, "metric_for_best_model is not set. Set it: loss"),
    pytest.param(
        {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
        "metric_for_best_model is 'accuracy', which an evaluation while training does not return",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BEST)
@pytest.mark.parametrize("config", [EmoR3Config, ColdStartConfig])
def test_a_best_model_needs_an_evaluation_that_tells_it(
    tmp_path: Path, config: type, changes: dict, message: str
) -> None:
    assert message in refuse_in_python(config, tmp_path, {**(NO_ENGINE if config is EmoR3Config else CPU), **changes})
    taken = {**CPU, **EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    config(output_dir=str(tmp_path), **taken)


GROUPS = [
    *(
        pytest.param({name: -0.1}, f"{name} is -0.1. Expected 0 or more", id=f"negative {name}")
        for name in ("beta", "epsilon", "epsilon_high", "entropy_target", "parity_stop")
    ),
    *(
        pytest.param({name: value}, f"{name} is {value}. Expected more than 0, and at most 1", id=f"{name} {value}")
        for name in ("top_entropy_quantile", "vllm_gpu_memory_utilization")
        for value in (0.0, -0.5, 1.5)
    ),
    pytest.param({"delta": 0.0}, "delta is 0.0. Expected more than 0", id="no delta"),
    pytest.param({"multi_objective_aggregation": "sum"}, "Expected one of sum_then_normalize, norm", id="aggregation"),
    pytest.param({"neftune_noise_alpha": 5.0}, "Rollouts are sampled without noise", id="noise"),
    pytest.param({"label_smoothing_factor": 0.1}, "GRPO's loss has no labels to smooth", id="smoothing"),
    pytest.param({"sync_ref_model": True, "beta": 0.0}, "there is no reference model to update", id="no reference"),
    pytest.param({"vllm_structured_outputs_regex": "a+"}, "(vllm_structured_outputs_regex a+)", id="regex"),
    pytest.param({"generation_kwargs": {"allowed_token_ids": [1]}}, "(allowed_token_ids [1])", id="allowed tokens"),
    pytest.param({"generation_kwargs": {"no_repeat_ngram_size": 2}}, "(no_repeat_ngram_size 2)", id="no repetition"),
    pytest.param({"generation_kwargs": {"do_sample": False}}, "(do_sample False)", id="greedy"),
]


@pytest.mark.parametrize(("changes", "message"), GROUPS)
def test_what_grpo_cannot_do_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    in_python = refuse_in_python(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})
    assert message in in_python
    assert in_python in refuse_on_the_command_line(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})


OWN = "def brief(completions, **columns):\n    return [1.0] * len(completions)\n\ndef two(texts): ...\n"
REWARDS = [
    pytest.param({"rewards": ["acuracy"]}, "rewards names 'acuracy'. Did you mean 'accuracy'?", id="misspelt"),
    pytest.param({"rewards": []}, "rewards is []. Expected accuracy, consistency, coherence, format,", id="none"),
    pytest.param({"rewards": ["own.py:breif"]}, "'own.py' has no function 'breif'. It has: brief, two.", id="function"),
    pytest.param({"rewards": ["own.py:two"]}, "'own.py:two', which takes (texts). TRL passes", id="signature"),
    pytest.param({"rewards": ["torn.py:brief"]}, "'torn.py', line 2 cannot be run: NameError: name 'x'", id="import"),
    pytest.param({"rewards": ["accuracy", "own.py:brief", "own.py:brief"]}, "'brief' 2 times", id="two of one name"),
    pytest.param(
        {"rewards": ["accuracy", "own.py:brief"], "reward_weights": [0.5]},
        "reward_weights is [0.5] for the 2 rewards accuracy, own.py:brief. Expected a number for each",
        id="weights",
    ),
    *(
        pytest.param({"rewards": ["accuracy"], name: value}, f"and {name} {value} chooses or weighs other", id=name)
        for name, value in (("reward_variant", "reference"), ("lambda1", 0.2), ("lambda2", 0.0))
    ),
]


@pytest.mark.parametrize(("changes", "message"), REWARDS)
def test_rewards_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("torn.py").write_text("\nx\n" + OWN)
    in_python = refuse_in_python(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})
    assert message in in_python
    assert in_python in refuse_on_the_command_line(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})


def test_a_file_of_rewards_that_is_not_there_is_named_with_the_folder_that_was_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        EmoR3Config(output_dir=str(tmp_path), rewards=["no.py:brief"], **NO_ENGINE)
    assert str(error.value) == f"rewards names 'no.py:brief', but there is no file 'no.py' in '{tmp_path}'."
    assert str(error.value) in refuse_on_the_command_line(
        EmoR3Config, tmp_path, {**NO_ENGINE, "rewards": ["no.py:brief"]}
    )


def test_rewards_are_named_once_for_a_trainer(tmp_path: Path) -> None:
    args = EmoR3Config(output_dir=str(tmp_path), rewards=["accuracy"], **NO_ENGINE)
    with pytest.raises(ValueError, match=r"args.rewards is \['accuracy'\], and reward_funcs is given as well"):
        EmoR3Trainer("no/model", accuracy_reward, args, tiny_dataset())


def test_a_trainer_needs_the_columns_of_an_own_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded for it: the path holds none."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def tinted(completions, colour, emotion, **columns): ...")
    args = EmoR3Config(output_dir=str(tmp_path), rewards=["accuracy", "own.py:tinted"], **NO_ENGINE)
    with pytest.raises(ValueError, match="; colour missing"):
        EmoR3Trainer("no/model", args=args, train_dataset=tiny_dataset())


def test_tensor_parallelism_divides_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refuse_in_python(EmoR3Config, tmp_path, {**CPU, "vllm_tensor_parallel_size": 2})
    assert "vllm_tensor_parallel_size is 2, which does not divide the 1 process(es)" in message
    monkeypatch.setattr(config, "world_size", lambda: 2)
    EmoR3Config(output_dir=str(tmp_path), vllm_tensor_parallel_size=2, **CPU)


def test_whole_weights_reach_the_engine(tmp_path: Path) -> None:
    quantized = {"model_init_kwargs": {"quantization_config": {"load_in_4bit": True}}}
    message = refuse_in_python(EmoR3Config, tmp_path, {**CPU, **quantized})
    assert "model_init_kwargs holds a quantization_config and use_vllm is true" in message
    EmoR3Config(output_dir=str(tmp_path), **NO_ENGINE, **quantized)


def test_an_adapter_has_no_reference_model_to_update(tmp_path: Path) -> None:
    args = EmoR3Config(output_dir=str(tmp_path), sync_ref_model=True, **NO_ENGINE)
    with pytest.raises(ValueError, match="with LoRA the reference is the policy without its adapter"):
        check_adapter(LoraConfig(target_modules="all-linear"), args)


@pytest.mark.parametrize(("changes", "message"), BOTH)
@pytest.mark.parametrize("config", [EmoR3Config, ColdStartConfig])
def test_python_and_the_command_line_refuse_the_same(tmp_path: Path, config: type, changes: dict, message: str) -> None:
    settings = {**(NO_ENGINE if config is EmoR3Config else CPU), **changes}
    in_python = refuse_in_python(config, tmp_path, settings)
    assert message in in_python
    assert in_python in refuse_on_the_command_line(config, tmp_path, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"num_generations": 7}, "batch_size 7 or 14, or --num_generations 4 or 8.", id="7 of 8"),
        pytest.param({"num_generations": 1}, "it needs 2 or more", id="G of 1"),
        pytest.param({"num_generations": None}, "it needs 2 or more", id="no G"),
        pytest.param({"generation_batch_size": 12}, "Set --generation_batch_size 8, or another", id="by hand"),
        pytest.param(
            {"generation_batch_size": 24, "per_device_train_batch_size": 16},
            "generation_batch_size = 24 completions, which do not divide into groups of num_generations = 8 and "
            "micro-batches of 1 process(es) x per_device_train_batch_size 16 = 16. Set --generation_batch_size 16,",
            id="whole groups, but no whole micro-batches",
        ),
        pytest.param({"steps_per_generation": 0}, "steps_per_generation is 0. Expected 1 or more", id="no step"),
        pytest.param({"num_iterations": 0}, "num_iterations is 0. Expected 1 or more", id="no iteration"),
    ],
)
def test_groups_that_do_not_divide_are_refused_with_what_divides(tmp_path: Path, changes: dict, message: str) -> None:
    in_python = refuse_in_python(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})
    assert message in in_python
    assert in_python in refuse_on_the_command_line(EmoR3Config, tmp_path, {**NO_ENGINE, **changes})


def test_groups_of_several_processes_are_counted_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = refuse_in_python(EmoR3Config, tmp_path, {**NO_ENGINE, "per_device_train_batch_size": 1})
    assert "3 process(es) x per_device_train_batch_size 1 x 1 step(s) per generation = 3 completions" in message


ADAPTERS = [
    pytest.param(
        {"target_modules": "all-linear", "lora_dropout": 0.05},
        ["lora_dropout is 0.05", "--lora_dropout 0", "LoraConfig(lora_dropout=0)"],
        id="dropout in training",
    ),
    pytest.param(
        {"target_modules": None},
        ["--lora_target_modules all-linear", 'LoraConfig(target_modules="all-linear")'],
        id="LoRA of nothing",
    ),
]


@pytest.mark.parametrize(("adapter", "expected"), ADAPTERS)
def test_a_trainer_made_in_python_refuses_an_adapter_as_the_command_line_does(
    tmp_path: Path, adapter: dict, expected: list[str]
) -> None:
    """No model is loaded for it: the path holds none."""
    args = EmoR3Config(output_dir=str(tmp_path), **NO_ENGINE)
    with pytest.raises(ValueError, match=r"adapter|lora_dropout") as error:
        EmoR3Trainer("no/model", args=args, train_dataset=tiny_dataset(), peft_config=LoraConfig(**adapter))
    for part in expected:
        assert part in str(error.value)
    flags = {"use_peft": True, "lora_target_modules": adapter["target_modules"]}
    flags |= {"lora_dropout": adapter.get("lora_dropout", 0.0)}
    assert str(error.value) in refuse_on_the_command_line(EmoR3Config, tmp_path, {**NO_ENGINE, **flags})


def test_an_adapter_that_the_model_brings_is_looked_at(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", lora_dropout=0.1))
    with pytest.raises(ValueError, match=r"lora_dropout is 0\.1"):
        check_adapter(None, EmoR3Config(output_dir=str(tmp_path), **NO_ENGINE), model)


@pytest.mark.parametrize(
    ("adapter", "changes"),
    [
        pytest.param(None, {}, id="no adapter"),
        pytest.param(LoraConfig(target_modules="all-linear"), {}, id="without dropout"),
        pytest.param(LoraConfig(target_parameters=["experts"]), {}, id="parameters as targets"),
        pytest.param(
            LoraConfig(target_modules="all-linear", lora_dropout=0.1), {"disable_dropout": True}, id="dropout off"
        ),
        pytest.param(
            PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2), {}, id="an adapter without targets"
        ),
    ],
)
def test_adapters_that_can_train_are_taken(tmp_path: Path, adapter: object, changes: dict) -> None:
    check_adapter(adapter, EmoR3Config(output_dir=str(tmp_path), **NO_ENGINE, **changes))


def test_a_cold_start_may_drop_activations_but_needs_targets(tmp_path: Path) -> None:
    args = ColdStartConfig(output_dir=str(tmp_path), num_samples=4, **CPU)
    check_adapter(LoraConfig(target_modules="all-linear", lora_dropout=0.1), args)
    with pytest.raises(ValueError, match="--lora_target_modules all-linear"):
        build_cold_start_trainer("no/model", args, tiny_dataset(), peft_config=LoraConfig())


def test_rows_that_fill_no_rollout_are_refused_in_python(tmp_path: Path) -> None:
    args = EmoR3Config(output_dir=str(tmp_path), per_device_train_batch_size=16, num_generations=4, **NO_ENGINE)
    with pytest.raises(ValueError, match="3 samples do not fill one rollout of 4 prompts"):
        EmoR3Trainer("no/model", args=args, train_dataset=tiny_dataset().select(range(3)))
