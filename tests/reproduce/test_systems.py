"""Systems differ in the fields that they name, at every scale, and docs/SYSTEMS.md shows these."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import ModelConfig

from emor3_trl.cold_start import ColdStartConfig
from emor3_trl.config import EmoR3Config
from emor3_trl.evaluation.arguments import EvaluationArguments
from emor3_trl.reproduce.budgets import plan_budget
from emor3_trl.reproduce.cells import build_cell, list_cells
from emor3_trl.reproduce.scales import find_scale, read_scale
from emor3_trl.reproduce.systems import SYSTEMS, TABLES, describe_systems
from emor3_trl.run import checks
from emor3_trl.run.arguments import GRPOArguments
from emor3_trl.run.command_line import parse_arguments

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"
SCALES = ["demo", "qwen2_5_vl_3b"]
TRAINED = [name for name, system in SYSTEMS.items() if system.stage]
GRPO = [name for name in TRAINED if SYSTEMS[name].stage == "grpo"]


def resolve(
    scale_name: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str | None = None
) -> dict[str, Any]:
    """Return every field of a system's training, by the recipe's own classes, as on a machine that can run it."""
    monkeypatch.setattr(checks, "check_processes", lambda values, source: None)
    scale = read_scale(find_scale(scale_name, CONFIGS))
    cells = [cell for cell in list_cells(scale, list(TABLES), 1, Path("runs")) if cell.system.name == name]
    cell = next((cell for cell in cells if cell.train == train), cells[0])
    if train is not None and cell.train != train:  # of Tables 2 and 3
        needed = SYSTEMS[name].start and build_cell(
            scale, SYSTEMS["cold_start"], train, 1, Path("runs/cold_start/seed1")
        )
        cell = build_cell(scale, SYSTEMS[name], train, 1, Path("runs/cell"), needed or None)
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(cell.commands[0].values))
    return parse_values(config, cell.system.stage == "grpo")


def parse_values(config: Path, is_grpo: bool) -> dict[str, Any]:
    """Return every field of a configuration, by the classes of its recipe."""
    flags = ["--config", str(config), "--bf16", "false", "--use_cpu", "true"]
    if is_grpo:
        classes: tuple[type, ...] = (GRPOArguments, ModelConfig, EmoR3Config)
        flags += ["--vllm_enable_sleep_mode", "false"]
    else:
        classes = (load_cold_start_arguments(), ModelConfig, ColdStartConfig)
    return parse_arguments(classes, argv=flags).values


def load_cold_start_arguments() -> type:
    spec = importlib.util.spec_from_file_location("recipe_cold_start", ROOT / "recipes" / "cold_start.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.ColdStartArguments


# Table 4: what each row changes of EMO-R3
BEYOND: dict[str, dict[str, Any]] = {
    "soft_raw_g8": {"soft_reflection": "raw"},
    "soft_calibrated_g8": {"soft_reflection": "calibrated"},
    "contrastive_g8": {"contrastive_consistency": True},
    "masked_g8": {"masked_coherence": True},
    "gated_unseparated_g8": {"gated_reflection": "unseparated"},
    "gated_right_g8": {"gated_reflection": "right"},
    "polarity_g8": {"polarity_credit": 0.5},
    "wheel_g8": {"accuracy_truth": "wheel"},
    "switches_g8": {
        "soft_reflection": "calibrated", "contrastive_consistency": True, "masked_coherence": True,
        "gated_reflection": "right",
    },
    "gdpo_g8": {"multi_objective_aggregation": "normalize_then_sum"},
    "gspo_g8": {
        "importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4,
        "delta": None,
    },
    "dr_grpo_g8": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "cispo_g8": {"loss_type": "cispo", "epsilon_high": 5.0},
    "entropy_g8": {"top_entropy_quantile": 0.2},
}  # fmt: skip
PAIRS = [
    ("emo_r3_g8", "grpo_g8", {"prompt_style", "reward_variant", "lambda1"}),
    ("emo_r3_g4", "grpo_g4", {"prompt_style", "reward_variant", "lambda1"}),
    ("grpo_g8", "dapo_g8", {"dynamic_sampling", "beta", "epsilon_high", "loss_type"}),
    ("grpo_g4", "dapo_g4", {"dynamic_sampling", "beta", "epsilon_high", "loss_type"}),
    ("dapo_g8", "dapo_accuracy_g8", {"dynamic_sampling"}),
    ("emo_r3_g8", "emo_r3_cold_start_g8", {"model_name_or_path"}),
    ("emo_r3_g8", "set_only_g8", {"lambda1"}),
    ("set_only_g8", "grpo_g8", {"prompt_style", "reward_variant"}),
    ("emo_r3_g8", "reference_g8", {"reward_variant"}),
    ("emo_r3_g8", "consistency_g8", {"rewards", "reward_weights"}),
    ("consistency_g8", "coherence_g8", {"rewards"}),
    *(("emo_r3_g8", name, set(fields)) for name, fields in BEYOND.items()),
]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("one", "other", "fields"), PAIRS, ids=[f"{a}-{b}" for a, b, _ in PAIRS])
def test_two_systems_differ_in_the_named_fields_alone(
    scale: str, one: str, other: str, fields: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (resolve(scale, name, tmp_path, monkeypatch) for name in (one, other))
    assert {key for key in first if first[key] != second[key]} - {"output_dir", "run_name"} == fields


@pytest.mark.parametrize(
    ("scale", "fields"),
    [
        ("demo", {"per_device_train_batch_size"}),
        ("qwen2_5_vl_3b", {"gradient_accumulation_steps", "steps_per_generation"}),
    ],
)
def test_group_sizes_differ_in_the_batch_that_keeps_the_prompts(
    scale: str, fields: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (resolve(scale, name, tmp_path, monkeypatch) for name in ("emo_r3_g4", "emo_r3_g8"))
    differing = {key for key in first if first[key] != second[key]} - {"output_dir", "run_name"}
    assert differing == fields | {"num_generations"}


SHIPPED = {
    "grpo_g8": "{train}_grpo", "dapo_g8": "{train}_dapo", "emo_r3_g8": "{train}_emo_r3",
    "cold_start": "{train}_cold_start", "emo_r3_cold_start_g8": "{train}_emo_r3_cold_start", "sft": "sft",
}  # fmt: skip
# What a run of the grid sets for its own place and its curves, and what depends on the machine
OF_THE_GRID = {
    "output_dir", "run_name", "report_to", "log_completions", "validation_splits", "validation_steps",
    "validation_samples", "bf16", "use_cpu", "vllm_enable_sleep_mode",
}  # fmt: skip


@pytest.mark.parametrize("train", ["emoset", "emotion6"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_system_is_the_shipped_configuration_of_its_name(
    name: str, train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field by field, those that neither names at the recipe's defaults."""
    values = resolve("qwen2_5_vl_3b", name, tmp_path, monkeypatch, train)
    config = CONFIGS / "qwen2_5_vl_3b" / f"{SHIPPED[name].format(train=train)}.yaml"
    shipped = parse_values(config, SYSTEMS[name].stage == "grpo")
    differing = {key for key in {*values, *shipped} if values.get(key) != shipped.get(key)}
    if SYSTEMS[name].start:
        differing -= {"model_name_or_path"}
        assert (Path(values["model_name_or_path"]).parts[-3], shipped["model_name_or_path"]) == (
            "cold_start", f"runs/qwen2_5_vl_3b/{train}_cold_start",
        )  # fmt: skip
    if name == "sft":
        differing -= {"data"}  # one file for both
        assert values["data"] == f"data/{train}"
    assert differing <= OF_THE_GRID


# The reference implementation's, and the baselines' (the paper's where it names them)
REFERENCE = {
    "learning_rate": 2e-6, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.01, "adam_beta1": 0.9,
    "adam_beta2": 0.999, "max_grad_norm": 1.0, "epsilon": 0.2, "delta": 3.0, "temperature": 1.0, "top_p": 1.0,
    "max_completion_length": 2048, "scale_rewards": "group", "dtype": "float32", "freeze_vision_tower": False,
    "use_peft": False,
}  # fmt: skip
OF_GRPO = {"beta": 0.01, "epsilon_high": 0.3, "loss_type": "bnpo", "dynamic_sampling": "none"}
OF_DAPO = {"beta": 0.0, "epsilon_high": 0.28, "loss_type": "dapo", "dynamic_sampling_tries": 20, "lambda1": 0.0}
OF_SET = {"prompt_style": "set", "lambda2": 0.1}
OF_THINK = {"prompt_style": "think", "reward_variant": "plain", "lambda2": 0.1, "rewards": None}
PARTS = {"reward_weights": [0.8, 0.1, 0.1], "reward_variant": "paper"}
EXPECTED: dict[str, dict[str, Any]] = {
    **{f"grpo_g{size}": {**OF_GRPO, **OF_THINK} for size in (4, 8)},
    **{f"dapo_g{size}": {**OF_DAPO, **OF_THINK, "dynamic_sampling": "reward"} for size in (4, 8)},
    "dapo_accuracy_g8": {**OF_DAPO, **OF_THINK, "dynamic_sampling": "accuracy"},
    **{f"emo_r3_g{size}": {**OF_GRPO, **OF_SET, "reward_variant": "paper", "lambda1": 0.1} for size in (4, 8)},
    "emo_r3_cold_start_g8": {**OF_GRPO, **OF_SET, "reward_variant": "paper", "lambda1": 0.1},
    "set_only_g8": {**OF_GRPO, **OF_SET, "reward_variant": "paper", "lambda1": 0.0},
    "consistency_g8": {**OF_GRPO, "prompt_style": "set", "rewards": ["accuracy", "consistency", "format"], **PARTS},
    "coherence_g8": {**OF_GRPO, "prompt_style": "set", "rewards": ["accuracy", "coherence", "format"], **PARTS},
    "reference_g8": {**OF_GRPO, **OF_SET, "reward_variant": "reference", "lambda1": 0.1},
    **{
        name: {**OF_GRPO, **OF_SET, "reward_variant": "paper", "lambda1": 0.1, **fields}
        for name, fields in BEYOND.items()
    },
}


@pytest.mark.parametrize("name", GRPO)
def test_a_system_has_the_published_hyper_parameters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = resolve("qwen2_5_vl_3b", name, tmp_path, monkeypatch)
    expected = {**REFERENCE, **EXPECTED[name], "num_generations": int(name[-1])}
    assert {key: values[key] for key in expected} == expected
    prompts = values["per_device_train_batch_size"] * values["processes"] // values["num_generations"]
    assert prompts * values["gradient_accumulation_steps"] == 256
    assert prompts * values["steps_per_generation"] == 512


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TRAINED)
def test_every_training_is_one_that_its_recipe_takes(
    scale: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = resolve(scale, name, tmp_path, monkeypatch)
    for key, value in SYSTEMS[name].settings.items():
        assert values[key] == value


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_evaluation_is_one_that_the_recipe_takes(name: str, tmp_path: Path) -> None:
    scale = read_scale(find_scale("qwen2_5_vl_3b", CONFIGS))
    system = SYSTEMS[name]
    cell = build_cell(scale, system, "emoset" if system.stage else None, 1, tmp_path)
    config = tmp_path / "evaluation.yaml"
    config.write_text(yaml.safe_dump(cell.commands[-1].values))
    (args,) = parse_arguments([EvaluationArguments], argv=["--config", str(config)]).arguments
    assert args.prompt_style == system.prompt_style
    assert (args.method == "sepm") is name.endswith("sepm")
    assert args.splits == ["emoset=data/emoset/test", "emotion6=data/emotion6/test", "webemo=data/webemo/test"]


@pytest.mark.parametrize("scale_name", SCALES)
@pytest.mark.parametrize("size", [4, 8])
def test_all_systems_of_a_group_size_have_one_budget(scale_name: str, size: int) -> None:
    scale = read_scale(find_scale(scale_name, CONFIGS))
    for train in scale.train_on:
        cells = [
            build_cell(scale, SYSTEMS[name], train, 1, Path("runs"))
            for name in GRPO
            if SYSTEMS[name].group_size == size
        ]
        budgets = {plan_budget(cell, 1386) for cell in cells}
        assert len(budgets) == 1
        other = plan_budget(build_cell(scale, SYSTEMS[f"emo_r3_g{12 - size}"], train, 1, Path("runs")), 1386)
        (budget,) = budgets
        assert budget is not None
        assert other is not None
        assert (other.steps, other.trained * size) == (budget.steps, budget.trained * (12 - size))


def test_the_page_of_systems_is_the_generated_one() -> None:
    assert (ROOT / "docs" / "SYSTEMS.md").read_text() == describe_systems()


def test_table_4_is_emo_r3_and_what_is_set_beside_it() -> None:
    assert TABLES[4] == ("emo_r3_g8", *BEYOND)


def test_every_system_stands_in_a_table_and_starts_from_one_that_trains() -> None:
    assert {name for names in TABLES.values() for name in names} == set(SYSTEMS)
    assert {SYSTEMS[system.start].stage for system in SYSTEMS.values() if system.start} == {"cold_start"}
