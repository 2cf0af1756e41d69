"""Every YAML under recipes/ is a complete run for the real classes, says where its numbers come from, and adds up."""

import ast
import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from datasets import Dataset
from trl import GRPOConfig, ModelConfig, SFTConfig

from emor3_trl.cold_start import ColdStartConfig
from emor3_trl.config import EmoR3Config
from emor3_trl.data import write_split
from emor3_trl.evaluation.arguments import EvaluationArguments
from emor3_trl.groups.batching import check_batch, count_batches
from emor3_trl.run import checks
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.memory import estimate_memory, read_shape
from emor3_trl.run.recipe import UserError

ROOT = Path(__file__).parents[2]
# A scale of the grid is no run (tests/reproduce/test_scales.py reads those), nor is a page (tests/recipes/test_app.py)
NO_RUN = ("reproduce", "app")
CONFIGS = sorted(path for path in (ROOT / "recipes" / "configs").glob("*/*.yaml") if path.stem not in NO_RUN)
EVALUATIONS = [path for path in CONFIGS if "models" in yaml.safe_load(path.read_text())]
ON_A_CPU = ("demo", "smollm2_vl")
REAL = [path for path in CONFIGS if path.parent.name not in ON_A_CPU and path not in EVALUATIONS]
ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
# What a machine without a GPU cannot take, and nothing else, is set off here.
WITHOUT_GPU = {"bf16": False, "vllm_enable_sleep_mode": False, "use_cpu": True}


def classes(path: Path) -> tuple[type, ...]:
    if path in EVALUATIONS:
        return (EvaluationArguments,)
    if is_grpo(path):
        return (RunArguments, ModelConfig, EmoR3Config)
    return (recipe("cold_start").ColdStartArguments, ModelConfig, ColdStartConfig)


def recipe(module: str) -> ModuleType:
    """Return a recipe as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{module}", ROOT / "recipes" / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


def is_grpo(path: Path) -> bool:
    return "num_generations" in yaml.safe_load(path.read_text())


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def flags(path: Path) -> list[str]:
    if path in EVALUATIONS:
        return []
    keys = WITHOUT_GPU if is_grpo(path) else {key: WITHOUT_GPU[key] for key in ("bf16", "use_cpu")}
    return ["--report_to", "none", *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]


@pytest.fixture(autouse=True)
def _as_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many processes as the configuration says; TrainingArguments itself sees one
    monkeypatch.setattr(checks, "check_processes", lambda values, source: None)


def test_there_are_configurations() -> None:
    assert len(REAL) >= 23
    assert {path.stem for path in CONFIGS if path not in REAL} >= {
        "cold_start",
        "dapo",
        "emo_r3",
        "emo_r3_cold_start",
        "evaluate",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_yaml_parses_by_the_real_classes(path: Path) -> None:
    parsed = parse_arguments(classes(path), argv=["--config", str(path), *flags(path)])
    for key, value in yaml.safe_load(path.read_text()).items():
        if key not in (*WITHOUT_GPU, "report_to"):
            assert parsed.values[key] == value, key


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_unknown_key_fails(path: Path, tmp_path: Path) -> None:
    changed = tmp_path / path.name
    changed.write_text(path.read_text() + "learning_rat: 1\n")
    with pytest.raises(UserError, match=r"Unknown key 'learning_rat'"):
        parse_arguments(classes(path), argv=["--config", str(changed), *flags(path)])


@pytest.mark.parametrize("path", REAL, ids=name)
def test_gpu_configuration_is_refused_without_a_gpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpu_available", lambda: False)
    with pytest.raises(UserError, match=r"bf16.*recipes/configs/demo"):
        parse_arguments(classes(path), argv=["--config", str(path), "--report_to", "none"])


def test_table_1_has_an_evaluation_of_each_untrained_system() -> None:
    systems = {}
    for path in EVALUATIONS:
        if path.parent.name not in ON_A_CPU:
            (args,) = parse_arguments(classes(path), argv=["--config", str(path)]).arguments
            systems[name(path)] = (args.method, args.prompt_style, args.engine)
    assert systems == {
        "llava_1_5_7b/evaluate": ("ask", "direct", "auto"),
        "llava_1_5_7b/sepm": ("sepm", "direct", "transformers"),
        "qwen2_5_vl_3b/sepm": ("sepm", "direct", "transformers"),
    }


@pytest.mark.parametrize("path", [path for path in REAL if is_grpo(path)], ids=name)
def test_real_configuration_follows_the_paper_and_the_reference(path: Path) -> None:
    values = parse_arguments(classes(path), argv=["--config", str(path), *flags(path)]).values
    check_batch(values, values["processes"])
    wanted = {
        "beta": 0.01,
        "epsilon": 0.2,
        "epsilon_high": 0.3,
        "delta": 3.0,
        "loss_type": "bnpo",
        "num_generations": 8,
    }
    if path.stem.endswith("dapo"):
        wanted |= {"beta": 0.0, "epsilon_high": 0.28, "loss_type": "dapo"}
        wanted |= {"dynamic_sampling": "reward", "dynamic_sampling_tries": 20, "reward_variant": "plain"}
    assert {key: values[key] for key in wanted} == wanted
    count = count_batches(values, values["max_samples"], values["processes"])
    if values["processes"] == 8:
        assert (count.prompts, count.prompts_per_update, values["learning_rate"]) == (512, 256, 2e-6)
        assert 55 <= count.rollouts <= 65
    assert values["prompt_style"] == ("think" if values["reward_variant"] == "plain" else "set")


@pytest.mark.parametrize("path", [path for path in REAL if not is_grpo(path)], ids=name)
def test_real_cold_start_needs_no_split_that_prepare_data_does_not_write(path: Path) -> None:
    values = parse_arguments(classes(path), argv=["--config", str(path), *flags(path)]).values
    assert (values["train_split"], values["eval_split"]) == ("train", None)


@pytest.mark.parametrize(("stem", "card"), [("lora_24gb", 24), ("lora_80gb", 80)])
def test_lora_configurations_are_planned_to_fit_their_card(stem: str, card: int) -> None:
    for path in REAL:
        if path.stem.endswith(stem):
            values = parse_arguments(
                classes(path), argv=["--config", str(path), "--plan", "--report_to", "none"]
            ).values
            rows = estimate_memory(values, read_shape(values["model_name_or_path"]), 1)
            assert sum(alone for part, alone, *_ in rows if not part.startswith("vLLM")) < 0.9 * card


def test_lora_leaves_the_vision_tower_alone() -> None:
    import re

    pattern = yaml.safe_load(next(p for p in REAL if "lora" in p.stem).read_text())["lora_target_modules"]
    assert re.fullmatch(pattern, "model.language_model.layers.0.mlp.gate_proj")
    assert not re.fullmatch(pattern, "model.visual.blocks.0.mlp.gate_proj")


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_file(path: Path) -> None:
    config = load_config_from_file(str(path))
    sharded = path.stem not in ("single_gpu", "ddp")
    assert config.mixed_precision == "bf16"
    assert config.num_processes == (1 if path.stem == "single_gpu" else 8)
    assert bool(getattr(config, "deepspeed_config", None) or getattr(config, "fsdp_config", None)) == sharded


def test_fsdp_file_makes_a_plugin() -> None:
    settings = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "fsdp2.yaml")).fsdp_config
    known = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    renamed = {"fsdp_version": "fsdp_version", "fsdp_offload_params": "cpu_offload"}
    names = {renamed.get(key, key.removeprefix("fsdp_")): value for key, value in settings.items()}
    assert set(names) <= known
    plugin = FullyShardedDataParallelPlugin(**names)
    assert (plugin.fsdp_version, plugin.cpu_ram_efficient_loading) == (2, False)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_file_makes_a_plugin(stage: int) -> None:
    from accelerate.utils import DeepSpeedPlugin

    settings = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"zero{stage}.yaml")).deepspeed_config
    assert DeepSpeedPlugin(zero_stage=settings["zero_stage"]).zero_stage == stage


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_settings_are_known_to_accelerate(stage: int) -> None:
    from accelerate.utils import DeepSpeedPlugin

    settings = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"zero{stage}.yaml")).deepspeed_config
    known = {field.name for field in dataclasses.fields(DeepSpeedPlugin)} | {"deepspeed_multinode_launcher"}
    assert set(settings) <= known | {"zero3_save_16bit_model"}
    assert settings["zero_stage"] == stage


def test_every_added_field_is_read_somewhere() -> None:
    sources = [*ROOT.glob("emor3_trl/**/*.py"), *ROOT.glob("recipes/*.py")]
    read = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)  # values["processes"], getattr(args, "max_tokens")
    for added, stock in (
        (RunArguments, None),
        (EmoR3Config, GRPOConfig),
        (ColdStartConfig, SFTConfig),
        (EvaluationArguments, None),
    ):
        known = {field.name for field in dataclasses.fields(stock)} if stock else set()
        fields = {field.name for field in dataclasses.fields(added)} - known
        assert fields - read == set(), added


def test_every_added_field_has_help() -> None:
    for added in (RunArguments, EmoR3Config, ColdStartConfig, EvaluationArguments):
        assert [field.name for field in dataclasses.fields(added) if not field.metadata.get("help")] in (
            [],
            ["hub_token"],
        )


SMALL = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_steps": 2,
    "max_completion_length": 12,
    "vllm_max_model_length": 512,
    "vllm_gpu_memory_utilization": 0.2,
    "dtype": "float32",
    "save_strategy": "no",
    "processes": 1,
    "num_generations": 4,
}


# The other families' files for GRPO take their steps on the tiny model of their family: tests/test_families_vllm.py
OF_TINY = [path for path in REAL if path.parent.name == "qwen2_5_vl_3b"]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in OF_TINY if is_grpo(path)], ids=name)
def test_grpo_configuration_takes_two_steps_on_the_tiny_model(
    path: Path, tmp_path: Path, tiny_model_dir: Path, training_rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through recipes/grpo.py itself: only sizes, paths and what needs a GPU differ from the file."""
    grpo = recipe("grpo")
    write_split(tmp_path / "data", "train", training_rows)
    overrides = {**SMALL, "model_name_or_path": tiny_model_dir, "output_dir": tmp_path / "run"}
    overrides["data"] = tmp_path / "data"
    if "steps_per_generation" in yaml.safe_load(path.read_text()):
        overrides["steps_per_generation"] = 2
    argv = ["grpo.py", "--config", str(path), *flags(path)]
    argv += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    grpo.main()
    assert (tmp_path / "run" / "metrics.json").is_file()
    weights = "adapter_model.safetensors" if "lora" in path.stem else "model.safetensors"
    assert (tmp_path / "run" / weights).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in OF_TINY if not is_grpo(path)], ids=name)
def test_cold_start_configuration_takes_two_steps_on_the_tiny_model(
    path: Path, tmp_path: Path, tiny_model_dir: Path, training_rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through recipes/cold_start.py itself: only sizes, paths and what needs a GPU differ from the file."""
    cold_start = recipe("cold_start")
    write_split(tmp_path / "data", "train", training_rows)  # and test, which no stage looks at
    overrides = {
        "data": tmp_path / "data",
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "num_samples": 4,
        "probe_max_tokens": 8,
        "processes": 1,
        "model_name_or_path": tiny_model_dir,
        "output_dir": tmp_path / "run",
    }
    argv = ["cold_start.py", "--config", str(path), *flags(path)]
    argv += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    with pytest.warns(UserWarning, match="well formed"):  # a random model writes no steps, and the recipe says so
        cold_start.main()
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert (tmp_path / "run" / "model.safetensors").is_file()
