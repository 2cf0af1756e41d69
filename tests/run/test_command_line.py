"""The command line: what a recipe refuses before it loads anything, and how it says so."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from transformers import SchedulerType
from trl import ModelConfig

from emor3_trl.config import EmoR3Config
from emor3_trl.run import checks
from emor3_trl.run.arguments import GRPOArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.folder import RunFolder
from emor3_trl.run.recipe import UserError, run_recipe, user_errors

CLASSES = (GRPOArguments, ModelConfig, EmoR3Config)
CPU = {"data": "d", "output_dir": "o", "bf16": False, "use_cpu": True, "use_vllm": False}


def write(folder: Path, **changes: object) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CPU, **changes}))
    return str(path)


def test_yaml_is_a_run_and_flags_override_it(tmp_path: Path) -> None:
    config = write(tmp_path, learning_rate="3e-5", num_generations=4, vllm_engine_options={"block_size": 32})
    parsed = parse_arguments(CLASSES, argv=["--config", config, "--num_generations", "2"])
    run, _, args = parsed.arguments
    assert (run.data, args.learning_rate, args.num_generations) == ("d", 3e-5, 2)
    assert args.lr_scheduler_type == SchedulerType.CONSTANT
    assert parsed.values["num_generations"] == 2
    assert parsed.source == Path(config)


def test_resolved_values_are_a_config_again(tmp_path: Path) -> None:
    first = parse_arguments(CLASSES, argv=["--config", write(tmp_path, beta=0.02)])
    RunFolder(tmp_path / "run", first.values).begin()
    again = parse_arguments(CLASSES, argv=["--config", str(tmp_path / "run" / "config.yaml")])
    assert not RunFolder(tmp_path / "run", again.values).is_finished  # no "holds another run"
    assert again.arguments[2].beta == 0.02


@pytest.mark.parametrize(
    ("changes", "flags", "expected"),
    [
        pytest.param({"lerning_rate": 1}, [], ["'lerning_rate'", "config.yaml", "learning_rate"], id="unknown key"),
        pytest.param({"zzz": 1}, [], ["Unknown key 'zzz'"], id="unknown key with nothing near"),
        pytest.param({}, ["--num-generation", "4"], ["--num-generation", "--num_generations"], id="unknown flag"),
        pytest.param({}, ["other.yaml"], ["--config other.yaml"], id="yaml without --config"),
        pytest.param({"num_generations": 2.5}, [], ["2.5", "whole number"], id="float for int"),
        pytest.param({"num_generations": "many"}, [], ["'many'", "whole number"], id="text for int"),
        pytest.param({"max_steps": True}, [], ["True", "whole number"], id="truth value for int"),
        pytest.param({"learning_rate": [1]}, [], ["learning_rate", "a number"], id="list for float"),
        pytest.param({"use_vllm": "maybe"}, [], ["use_vllm"], id="text for truth value"),
        pytest.param({"save_strategy": False}, [], ["save_strategy", "quote"], id="bare no"),
        pytest.param({"prompt_style": "sett"}, [], ["'sett'", "'set'"], id="unknown choice"),
        pytest.param({}, ["--beta", "small"], ["beta", "small", "a number"], id="text for a number as a flag"),
        pytest.param({"num_generations": 7}, [], ["7", "batch_size 7", "num_generations 4 or 8"], id="no whole groups"),
        pytest.param({"num_generations": 1}, [], ["2 or more"], id="G of 1"),
        pytest.param({"processes": 8}, [], ["8 process", "has 1", "accelerate launch"], id="other world size"),
        pytest.param({"bf16": True}, [], ["bf16", "GPU", "recipes/configs/demo"], id="bf16 without a GPU"),
        pytest.param({"vllm_enable_sleep_mode": True}, [], ["vllm_enable_sleep_mode"], id="sleep without a GPU"),
        pytest.param({"attn_implementation": "flash_attention_2"}, [], ["attn_implementation"], id="flash attention"),
        pytest.param({"reward_variant": "papr"}, [], ["papr", "reference"], id="unknown reward variant"),
        pytest.param({"lambda1": 0.9, "lambda2": 0.2}, [], ["lambda"], id="weights above 1"),
        pytest.param({"vllm_mode": "servr"}, [], ["'servr'", "colocate or server"], id="unknown place of the engine"),
        pytest.param(
            {"use_vllm": True, "vllm_mode": "server", "vllm_engine_options": {"block_size": 16}},
            [],
            ["vllm_engine_options", "recipes/serve.py"],
            id="options for an engine that has started",
        ),
        pytest.param({"top_p": 0.9}, [], ["top_p"], id="truncated sampling"),
        pytest.param({"repetition_penalty": 1.05}, [], ["repetition_penalty 1.05"], id="repetition penalty"),
        pytest.param({"generation_kwargs": {"top_k": 50}}, [], ["top_k 50"], id="restriction among further options"),
        pytest.param({"generation_kwargs": {"temperature": 2}}, [], ["temperature 2"], id="vLLM's own temperature"),
        pytest.param({}, ["--generation_kwargs", "[1]"], ["generation_kwargs", "mapping"], id="list for a mapping"),
        pytest.param({}, ["--generation_kwargs", "{x"], ["generation_kwargs", "expected JSON"], id="broken JSON"),
        pytest.param({"loss_type": "gppo"}, [], ["'gppo'", "dr_grpo"], id="unknown loss"),
        pytest.param({"scale_rewards": "std"}, [], ["'std'", "group"], id="unknown scaling of rewards"),
        pytest.param({"temperature": 0.0}, [], ["temperature is 0.0"], id="temperature of 0"),
        pytest.param({"max_completion_length": 0}, [], ["max_completion_length is 0"], id="completions of no token"),
        pytest.param({"learning_rate": -1.0}, [], ["learning_rate is -1.0"], id="negative rate"),
        pytest.param({"num_train_epochs": 0}, [], ["num_train_epochs is 0"], id="no epoch"),
        pytest.param({"reward_weights": [1.0, 2.0]}, [], ["reward_weights", "lambda1"], id="weights by hand"),
        pytest.param({"report_to": "wandd"}, [], ["wandd", "wandb"], id="unknown integration"),
        pytest.param({"use_peft": True}, [], ["--lora_target_modules all-linear"], id="LoRA of nothing"),
        pytest.param({"generation_batch_size": 6}, [], ["generation_batch_size = 6"], id="whole groups by hand"),
        pytest.param(
            {"use_peft": True, "lora_target_modules": ["x"]},
            [],
            ["lora_dropout is 0.05", "--lora_dropout 0"],
            id="dropout in training",
        ),
        pytest.param({"prompt_style": "think"}, [], ["'think'", "--prompt_style set"], id="prompt of another reward"),
        pytest.param({"reward_variant": "plain"}, [], ["'set'", "--prompt_style think"], id="reward of another prompt"),
        pytest.param(
            {"rewards": ["accuracy", "think_format"]}, [], ["--prompt_style think", "leave"], id="think_format"
        ),
        pytest.param(
            {"prompt_style": "direct", "rewards": ["accuracy", "coherence"]},
            [],
            ["prompt_style is 'direct', but rewards names 'coherence'", "--prompt_style set"],
            id="reflection without steps",
        ),
        pytest.param({"rewards": "accuracy"}, [], ["rewards is 'accuracy'", "a list"], id="a reward for a list"),
        pytest.param({"rewards": [{"a.py": "b"}]}, [], ["rewards holds {'a.py': 'b'}"], id="a space after the colon"),
        pytest.param({}, ["--rewards", "accuracy", "no.py:f"], ["there is no file 'no.py'"], id="rewards as a flag"),
        pytest.param({"eval_split": "validation"}, [], ["--eval_strategy steps"], id="split that nothing evaluates"),
        pytest.param({"eval_strategy": "steps"}, [], ["eval_split is None"], id="evaluation without a split"),
        pytest.param(
            {"lora_r": 8, "use_dora": True}, [], ["lora_r, use_dora", "--use_peft true"], id="LoRA without LoRA"
        ),
        pytest.param({"bnb_4bit_quant_type": "fp4"}, [], ["load_in_4bit is false"], id="type of no 4 bits"),
        pytest.param({"load_in_8bit": True}, [], ["cannot be trained", "--use_peft true"], id="8 bits trained"),
        pytest.param({"load_in_4bit": True, "use_vllm": True}, [], ["load_in_4bit is true and use_vllm"], id="4 bits"),
        pytest.param({"load_in_4bit": True, "use_vllm": True}, ["--plan"], ["and use_vllm is true"], id="planned"),
        pytest.param({"fsdp": "full_shard"}, [], ["fsdp is 'full_shard'", "fsdp2.yaml"], id="FSDP of one process"),
        pytest.param({"use_vllm": True, "vllm_tensor_parallel_size": 2}, [], ["does not divide the 1"], id="parallel"),
        pytest.param({"optim": "grokadamw"}, [], ["optim is 'grokadamw'", "pip install"], id="no such optimizer"),
        pytest.param({"optim_args": "a"}, [], ["optim_args 'a'"], id="options of no form"),
        pytest.param({"lr_scheduler_kwargs": {"x": 1}}, [], ["takes no lr_scheduler_kwargs"], id="no options"),
        pytest.param(
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"x": 1}},
            [],
            ["kwargs {'x': 1}"],
            id="no option",
        ),
        pytest.param({"lr_scheduler_type": "cosine_with_min_lr"}, [], ["min_lr"], id="schedule that lacks an option"),
        pytest.param({"accelerator_config": {"x": 1}}, [], ["unexpected keyword argument 'x'"], id="Accelerate's keys"),
        pytest.param({"use_liger_kernel": True}, [], ["pip install liger-kernel"], id="kernels not installed"),
        pytest.param({"resume_from_checkpoint": "c"}, [], ["output_dir"], id="resuming by hand"),
    ],
)
def test_mistakes_are_named_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, flags: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(checks, "gpu_available", lambda: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError) as error:
        parse_arguments(CLASSES, argv=["--config", write(tmp_path, **changes), *flags])
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("batch", "refused"),
    [
        pytest.param({"per_device_train_batch_size": 1}, None, id="a group over eight processes"),
        pytest.param({"per_device_train_batch_size": 1, "generation_batch_size": 16}, None, id="by hand"),
        pytest.param({"per_device_train_batch_size": 3}, "8 process.* x per_device_train_batch_size 3", id="no groups"),
    ],
)
def test_a_plan_divides_the_batch_of_the_planned_processes(tmp_path: Path, batch: dict, refused: str | None) -> None:
    config = write(tmp_path, processes=8, num_generations=16 if refused else 8, **batch)
    if refused:
        with pytest.raises(UserError, match=refused):
            parse_arguments(CLASSES, argv=["--config", config, "--plan"])
        return
    parsed = parse_arguments(CLASSES, argv=["--config", config, "--plan"])
    assert parsed.values["per_device_train_batch_size"] == 1


def test_missing_config_lists_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"nope\.yaml' does not exist.*config\.yaml"):
        parse_arguments(CLASSES, argv=["--config", str(tmp_path / "nope.yaml")])


def test_config_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"model\.yaml' is not valid YAML"):
        parse_arguments(CLASSES, argv=["--config", str(tmp_path / "model.yaml")])


@pytest.mark.parametrize("argv", [["--config"], ["--seed", "2", "--config"], ["--config="]])
def test_config_without_a_path_is_named(argv: list[str]) -> None:
    with pytest.raises(UserError, match="--config needs the path of a YAML file"):
        parse_arguments(CLASSES, argv=argv)


def test_config_may_stand_anywhere_and_in_one_word(tmp_path: Path) -> None:
    path = write(tmp_path, learning_rate=3e-5)
    for argv in (["--seed", "2", "--config", path], ["--seed=2", f"--config={path}"], ["--config", path, "--seed=2"]):
        parsed = parse_arguments(CLASSES, argv=argv)
        assert (parsed.values["learning_rate"], parsed.values["seed"], parsed.source) == (3e-5, 2, Path(path))


def test_missing_required_argument_is_named() -> None:
    with pytest.raises(UserError, match="--data must be set"):
        parse_arguments(CLASSES, argv=["--bf16", "false"])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"prompt_style": "think", "reward_variant": "plain"}, id="plain GRPO"),
        pytest.param({"prompt_style": "direct", "lambda1": 0.0, "lambda2": 0.0}, id="accuracy alone"),
        pytest.param(
            {"use_peft": True, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}, id="LoRA without dropout"
        ),
        pytest.param({"eval_split": "validation", "eval_strategy": "steps"}, id="evaluation while training"),
        pytest.param({"generation_kwargs": {"stop": ["x"], "top_p": 1.0}}, id="options that restrict nothing"),
    ],
)
def test_settings_that_agree_are_taken(tmp_path: Path, changes: dict) -> None:
    parse_arguments(CLASSES, argv=["--config", write(tmp_path, **changes)])


def test_cli_prints_one_line_and_exits_with_2(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOR3_DEBUG", raising=False)

    def main() -> None:
        with user_errors():
            raise ValueError("first\n  second")

    with pytest.raises(SystemExit) as exit_info:
        run_recipe(main)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise UserError("data '\x1b[2J\x9b\u202eyoj' is not there")

    with pytest.raises(SystemExit):
        run_recipe(main)
    printed = capsys.readouterr().err
    assert r"'\x1b[2J\x9b\u202eyoj'" in printed
    assert printed.rstrip("\n").isprintable()


def test_cli_keeps_the_traceback_of_a_defect() -> None:
    def main() -> None:
        raise ValueError("raised outside the checking phase")

    with pytest.raises(ValueError, match="outside"):
        run_recipe(main)


def test_reserved_names_stay_free() -> None:
    @dataclass
    class Clash:
        config: str = "x"

    with pytest.raises(UserError, match="config"):
        parse_arguments((Clash,), argv=[])
