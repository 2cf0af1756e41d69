"""Rewards by name: which there are, what they weigh, which prompt and columns they need."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from datasets import Dataset
from tiny_model import gold_completion
from trl import ModelConfig

from emor3_trl import rewards
from emor3_trl.config import EmoR3Config
from emor3_trl.named_rewards import (
    NAMED_REWARDS,
    STYLES,
    asks_reflection,
    check_reward_columns,
    describe_rewards,
    digest_rewards,
    load_rewards,
)
from emor3_trl.rewards import reward_functions
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import parse_arguments

OWN = """
def brief(completions, **columns):
    return [float(len(text) < 40) for text in completions]

def brief_reward(completions, **columns):
    return brief(completions)

def overall(completions, **columns):
    return brief(completions)

def tinted(completions, colour, coherence_answer, **columns):
    return brief(completions)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


def test_every_reward_of_this_project_has_a_name() -> None:
    functions = inspect.getmembers(rewards, inspect.isfunction)
    public = {name.removesuffix("_reward"): function for name, function in functions if name.endswith("_reward")}
    assert public == NAMED_REWARDS


def test_a_style_is_what_a_form_can_be_earned_under() -> None:
    """Each reward that is bound to a style gives 1 to a perfect completion of it, and 0 to one of the other."""
    perfect = {"set": gold_completion("awe"), "think": r"<think>A wide sky.</think>\boxed{awe}"}
    columns = {
        "emotion": ["awe"],
        "label_space": [["awe", "fear"]],
        "consistency_answer": ["Yes"],
        "coherence_answer": ["awe"],
    }
    for name, function in NAMED_REWARDS.items():
        earned = {style: function([text], **columns) for style, text in perfect.items()}
        assert earned == {style: [float(STYLES.get(name, style) == style)] for style in perfect}


@pytest.mark.parametrize(
    ("names", "weights", "variant"),
    [
        pytest.param(
            ["accuracy", "consistency", "coherence", "format"], [0.8, 0.05, 0.05, 0.1], ("paper", 0.1, 0.1), id="paper"
        ),
        pytest.param(["accuracy", "think_format"], [0.9, 0.1], ("plain", 0.1, 0.1), id="plain GRPO"),
    ],
)
def test_names_reach_what_the_variants_are(names: list[str], weights: list[float], variant: tuple) -> None:
    functions, expected = reward_functions(*variant)
    assert load_rewards(names, weights) == (functions, pytest.approx(expected))


def test_a_reward_without_a_weight_counts_1_as_in_trl() -> None:
    functions, weights = load_rewards(["accuracy", "mine.py:brief"])
    assert [function.__name__ for function in functions] == ["accuracy_reward", "brief"]
    assert weights == [1.0, 1.0]
    assert describe_rewards(*load_rewards(["accuracy", "mine.py:brief"], [0.75, -1])) == "0.75 accuracy + -1 brief"


REFUSED = [
    pytest.param([], None, "rewards is []. Expected accuracy, consistency,", id="none"),
    pytest.param("accuracy", None, "rewards is 'accuracy'. Expected accuracy,", id="text"),
    pytest.param(["acuracy"], None, "rewards names 'acuracy'. Did you mean 'accuracy'?", id="misspelt"),
    pytest.param(["format_reward"], None, "Did you mean 'format'?", id="the function's name"),
    pytest.param(["mine.py"], None, "rewards names 'mine.py'. Expected accuracy,", id="a file alone"),
    pytest.param(["mine.py:"], None, "rewards names 'mine.py:'. Expected", id="no function"),
    pytest.param(["mine:brief"], None, "or <file>.py:<function>", id="a module"),
    pytest.param([{"mine.py": "brief"}], None, "rewards holds {'mine.py': 'brief'}, which is no text", id="a space"),
    pytest.param(["accuracy", "accuracy"], None, "names 'accuracy' 2 times (accuracy, accuracy)", id="twice"),
    pytest.param(["mine.py:brief", "mine.py:brief_reward"], None, "names 'brief' 2 times", id="of one name"),
    pytest.param(["mine.py:overall"], None, "the log calls the weighted sum 'overall'", id="the sum's name"),
    pytest.param(["accuracy", "format"], [1.0], "reward_weights is [1.0] for the 2 rewards accuracy, format", id="few"),
    pytest.param(["accuracy"], [0.9, 0.1], "reward_weights is [0.9, 0.1] for the 1 rewards", id="many"),
    pytest.param(["accuracy"], [float("nan")], "reward_weights is [nan]", id="nan"),
    pytest.param(["accuracy"], ["0.9"], "reward_weights is ['0.9']", id="text as a weight"),
    pytest.param(["accuracy"], [True], "Expected a number for each", id="truth as a weight"),
    pytest.param(["accuracy"], 0.9, "reward_weights is 0.9 for", id="no list"),
]


@pytest.mark.parametrize(("names", "weights", "message"), REFUSED)
def test_names_and_weights_that_cannot_be_used_are_one_line(names: list, weights: object, message: str) -> None:
    with pytest.raises(ValueError, match="reward") as error:
        load_rewards(names, weights)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("names", "asks"),
    [
        pytest.param(["accuracy", "format", "think_format", "mine.py:brief"], False, id="none"),
        pytest.param(["consistency"], True, id="consistency"),
        pytest.param(["coherence"], True, id="coherence"),
        pytest.param(["accuracy", "mine.py:tinted"], True, id="own"),
    ],
)
def test_the_reflection_is_asked_for_by_a_parameter(names: list[str], asks: bool) -> None:
    assert asks_reflection(load_rewards(names)[0]) is asks


def test_a_column_that_no_data_has_is_named_before_a_rollout() -> None:
    args = SimpleNamespace(rewards=["accuracy", "mine.py:tinted"], reward_weights=None)
    data, coloured = Dataset.from_dict({"id": ["1"]}), Dataset.from_dict({"id": ["1"], "colour": ["red"]})
    check_reward_columns(args, {"training": coloured, "evaluation": None})
    with pytest.raises(ValueError, match=r"'tinted' needs colour, which is no column of the evaluation data \(id\)"):
        check_reward_columns(args, {"training": coloured, "evaluation": data})
    check_reward_columns(SimpleNamespace(rewards=None, reward_weights=None), {"training": data})


def test_the_files_of_rewards_are_digested_and_names_are_not() -> None:
    assert list(digest_rewards(["accuracy", "mine.py:brief", "mine.py:tinted"])) == ["reward file mine.py"]
    assert digest_rewards(None) == digest_rewards(["accuracy"]) == {}


DOCS = Path(__file__).parents[1] / "docs" / "REWARDS.md"


@pytest.mark.parametrize("page", [DOCS.parents[1] / "README.md", DOCS], ids=["README", "REWARDS"])
def test_the_worked_example_is_a_file_and_a_configuration_that_load(page: Path) -> None:
    text = page.read_text()
    (code,) = (block.split("```")[0] for block in text.split("```python\n")[1:] if "def brief" in block)
    Path("my_rewards.py").write_text(code)
    settings = yaml.safe_load("\n".join(re.findall(r"^    (reward.*)$", text, re.M)[:2]))
    functions, weights = load_rewards(settings["rewards"], settings["reward_weights"])
    assert describe_rewards(functions, weights) == "0.8 accuracy + 0.1 coherence + 0.1 brief"
    assert functions[-1](["x" * 599, "x" * 600]) == [1.0, 0.0]
    for name in re.findall(r"^def (\w+)", code, re.M):
        load_rewards([f"my_rewards.py:{name}"])


def test_the_table_has_every_name() -> None:
    assert re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.M) == list(NAMED_REWARDS)


def test_the_papers_ablations_are_flags_on_a_configuration(tmp_path: Path) -> None:
    lines = [line.split("#")[0].split() for line in re.findall(r"^    (--.*)$", DOCS.read_text(), re.M)]
    settings = {
        "data": "d",
        "output_dir": "run",
        "bf16": False,
        "use_cpu": True,
        "use_vllm": False,
        "report_to": "none",
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings | {"report_to": "none", "reward_variant": "paper"}))
    sums = []
    for flags in lines:
        parsed = parse_arguments((RunArguments, ModelConfig, EmoR3Config), argv=["--config", "run.yaml", *flags])
        args = parsed.arguments[2]
        variant = reward_functions(args.reward_variant, args.lambda1, args.lambda2)
        rewards_of_run = load_rewards(args.rewards, args.reward_weights) if args.rewards else variant
        sums.append(describe_rewards(*rewards_of_run))
    assert sums == [
        "0.9 accuracy + 0.1 think_format",
        "0.9 accuracy + 0 consistency + 0 coherence + 0.1 format",
        "0.8 accuracy + 0.05 consistency + 0.05 coherence + 0.1 format",
        "0.8 accuracy + 0.1 consistency + 0.1 format",
        "0.8 accuracy + 0.1 coherence + 0.1 format",
        "0.9 accuracy + 0.05 consistency + 0.05 coherence",
        "1 accuracy",
    ]
