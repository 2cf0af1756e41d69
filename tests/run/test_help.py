"""The first screen: what people change, in groups, on sixty lines, with the defaults and sources that hold."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_commands import load_recipe
from trl import GRPOConfig, ModelConfig, SFTConfig

from emor3_trl.cold_start import ColdStartConfig
from emor3_trl.config import EmoR3Config
from emor3_trl.run.arguments import GRPOArguments, RunArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.help import COLD_START_OPTIONS, GRPO_OPTIONS, OptionGroups, describe_options, show_default

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = ["grpo", "cold_start", "evaluate", "prepare_data", "report", "predict", "app", "export", "reproduce"]
NAMES += ["prepare_english", "english_completions"]
GRPO = (GRPOArguments, ModelConfig, EmoR3Config)
COLD_START = (RunArguments, ModelConfig, ColdStartConfig)
SCREENS = [pytest.param(GRPO, GRPO_OPTIONS, id="grpo"), pytest.param(COLD_START, COLD_START_OPTIONS, id="cold_start")]


def show(recipe: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """Return what a recipe prints for a flag, and make sure that it ends there."""
    module = load_recipe(recipe, monkeypatch)
    monkeypatch.setattr("sys.argv", [f"recipes/{recipe}.py", flag])
    with pytest.raises(SystemExit) as exit_info:
        module.main()
    assert exit_info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", NAMES)
def test_help_is_one_screen(recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    lines = show(recipe, "--help", monkeypatch, capsys).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    assert lines[0] == f"usage: python recipes/{recipe}.py [--config FILE] [--OPTION VALUE ...]"
    assert lines[2] in (RECIPES / f"{recipe}.py").read_text()


def test_help_all_has_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    whole = show("grpo", "--help_all", monkeypatch, capsys)
    assert len(whole.splitlines()) > 1000
    for cls in GRPO:
        for option in dataclasses.fields(cls):
            assert f"--{option.name}" in whole or not option.init


def test_help_is_shown_before_a_configuration_is_read(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(GRPO, argv=["--config", "no/such.yaml", "--nonsense", "-h"], groups=GRPO_OPTIONS)
    assert "--learning_rate" in capsys.readouterr().out


@pytest.mark.parametrize(("classes", "groups"), SCREENS)
def test_each_line_names_an_option_its_default_and_its_source(classes: tuple, groups: OptionGroups) -> None:
    options = {option.name: option for cls in classes for option in dataclasses.fields(cls)}
    screen = describe_options("", classes, groups)
    shown = dict(line.split(maxsplit=2)[:2] for line in screen.splitlines() if line.startswith("  --"))
    assert set(shown) == {f"--{name}" for group in groups.values() for name in group}
    for flag, default in shown.items():
        assert default == show_default(options[flag[2:]])
    entries = [" ".join(entry.split()) for entry in screen.split("\n  --")[1:]]
    for entry in entries:
        if not entry.startswith("data required"):
            assert any(source in entry for source in ("(TRL)", "this project", "(paper", "(reference", "the reference"))
    for title in groups:
        assert f"\n{title}\n" in screen


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("learning_rate", "2e-06"),
        ("lambda1", "0.1"),
        ("use_vllm", "true"),
        ("max_steps", "-1"),
        ("parity_warn", "none"),
    ],
)
def test_defaults_read_as_in_a_yaml(option: str, shown: str) -> None:
    (field,) = (field for field in dataclasses.fields(EmoR3Config) if field.name == option)
    assert show_default(field) == shown


@pytest.mark.parametrize(
    ("added", "stock", "groups"),
    [
        pytest.param(GRPOArguments, None, GRPO_OPTIONS, id="of a run"),
        pytest.param(EmoR3Config, GRPOConfig, GRPO_OPTIONS, id="of EMO-R3"),
        pytest.param(RunArguments, None, COLD_START_OPTIONS, id="of a run, cold start"),
        pytest.param(ColdStartConfig, SFTConfig, COLD_START_OPTIONS, id="of a cold start"),
    ],
)
def test_every_option_of_this_project_is_on_the_first_screen(added: type, stock: type, groups: OptionGroups) -> None:
    known = {field.name for field in dataclasses.fields(stock)} if stock else set()
    shown = {name for group in groups.values() for name in group}
    assert {field.name for field in dataclasses.fields(added)} - known <= shown


def test_the_groups_are_those_that_a_yaml_has() -> None:
    assert list(GRPO_OPTIONS) == ["Data", "Model", "Reward", "Batches", "Optimisation", "Generation", "Output"]


def list_imports_of_help(recipe: str, shows: str) -> set[str]:
    """Return the modules that a process has imported after a recipe's `--help`."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(RECIPES)!r} + '/{recipe}.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    return set(done.stderr.split())


def test_help_imports_no_engine() -> None:
    assert "vllm" not in list_imports_of_help("grpo", "--num_generations")


@pytest.mark.parametrize(("recipe", "shows"), [("prepare_data", "--dataset"), ("report", "--baseline")])
def test_what_needs_no_model_starts_without_the_libraries_of_one(recipe: str, shows: str) -> None:
    heavy = {"torch", "transformers", "accelerate", "peft", "datasets", "pandas", "vllm", "matplotlib"}
    assert not heavy & list_imports_of_help(recipe, shows)
