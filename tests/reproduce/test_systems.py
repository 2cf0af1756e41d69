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


def resolve(scale_name: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return every field of a system's training, by the recipe's own classes, as on a machine that can run it."""
    monkeypatch.setattr(checks, "check_processes", lambda values, source: None)
    scale = read_scale(find_scale(scale_name, CONFIGS))
    cell = next(cell for cell in list_cells(scale, list(TABLES), 1, Path("runs")) if cell.system.name == name)
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(cell.commands[0].values))
    flags = ["--config", str(config), "--bf16", "false", "--use_cpu", "true"]
    if cell.system.stage == "grpo":
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


def test_every_system_stands_in_a_table_and_starts_from_one_that_trains() -> None:
    assert {name for names in TABLES.values() for name in names} == set(SYSTEMS)
    assert {SYSTEMS[system.start].stage for system in SYSTEMS.values() if system.start} == {"cold_start"}
