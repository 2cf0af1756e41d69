"""A file of the user's becomes a reward that TRL can call, or one line says why it does not."""

import dataclasses
import pickle
from pathlib import Path

import pytest

from emor3_trl.own_rewards import digest_files, list_needed_columns, load_own_reward

BRIEF = """
def brief(completions, **columns):
    return [float(len(text) < {limit}) for text in completions]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "mine.py") -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)


def test_a_function_is_found_by_its_path_from_the_working_directory() -> None:
    write(BRIEF.format(limit=3), "own/mine.py")
    reward = load_own_reward("own/mine.py:brief")
    assert reward.__name__ == "brief"
    assert reward(["ab", "abc"]) == [1.0, 0.0]
    assert sorted(path.name for path in Path("own").iterdir()) == ["mine.py"]  # no cache of bytecode beside it


def test_a_changed_file_is_run_again_and_an_unchanged_one_is_not() -> None:
    write("print('run')\n" + BRIEF.format(limit=3))
    first = load_own_reward("mine.py:brief")
    assert load_own_reward("mine.py:brief") is first
    write("print('run')\n" + BRIEF.format(limit=2))  # of the same length, in the same second
    assert (first(["ab"]), load_own_reward("mine.py:brief")(["ab"])) == ([1.0], [0.0])


def test_a_file_is_a_module_like_any_other() -> None:
    """Dataclasses with postponed annotations, and pickle, look a module up by its name."""
    write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Limit:\n"
        "    size: int = 3\n\ndef brief(completions, **columns):\n    return [Limit().size] * len(completions)"
    )
    reward = load_own_reward("mine.py:brief")
    assert reward(["a"]) == [3]
    assert pickle.loads(pickle.dumps(reward)) is reward
    assert dataclasses.is_dataclass(reward.__globals__["Limit"])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("async def brief(completions, **columns): ...", id="async"),
        pytest.param("def brief(prompts, completions, completion_ids, emotion, **columns): ...", id="all by name"),
        pytest.param("def brief(*, completions, **columns): ...", id="by name only"),
        pytest.param("def brief(**columns): ...", id="columns alone"),
        pytest.param(
            "from functools import partial\ndef short(completions, n, **columns): ...\nbrief = partial(short, n=3)",
            id="partial",
        ),
        pytest.param(
            "class Brief:\n    def __call__(self, completions, **columns): ...\nbrief = Brief()", id="an object"
        ),
        pytest.param("from emor3_trl.rewards import format_reward as brief", id="imported"),
    ],
)
def test_what_trl_can_call_is_taken(text: str) -> None:
    write(text)
    assert callable(load_own_reward("mine.py:brief"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "but there is no file 'mine.py' in '", id="no file"),
        pytest.param("def breif(completions, **columns): ...", "no function 'brief'. It has: breif.", id="misspelt"),
        pytest.param("import math", "no function 'brief'. It has none.", id="nothing"),
        pytest.param("x = 1\ndef brief(:", "'mine.py', line 2 cannot be run: SyntaxError: invalid syntax", id="syntax"),
        pytest.param("\n\nimport no_such", "line 3 cannot be run: ModuleNotFoundError: No module named", id="import"),
        pytest.param("\nraise SystemExit(3)", "'mine.py', line 2 cannot be run: SystemExit: 3", id="exit"),
        pytest.param("def f():\n    1 / 0\n\nf()", "'mine.py', line 2 cannot be run: ZeroDivisionError", id="deep"),
        pytest.param("x = '\0'", "'mine.py' cannot be run: ", id="null bytes"),
        pytest.param("raise ValueError('x ' * 999)", "ValueError: x x x", id="a long message"),
        pytest.param("brief = 3", "which is of type int. Expected a function: 'def brief(comp", id="no function"),
        pytest.param("class brief:\n    pass", "which is a class. Expected a function", id="a class"),
        pytest.param("import torch\nbrief = torch.nn.Linear(1, 1)", "which is of type Linear. Expected", id="a module"),
        pytest.param("def brief(completions): ...", "which takes (completions). TRL passes comple", id="no columns"),
        pytest.param("def brief(texts, /, **columns): ...", "which takes (texts, **columns). TRL", id="by place"),
        pytest.param("def brief(completion, **columns): ...", "write 'def brief(completions, **columns)'", id="one"),
        pytest.param("from operator import itemgetter as brief", "Expected a function", id="a class in C"),
        pytest.param("brief = print", "which takes (*args, sep=", id="a builtin"),
    ],
)
def test_what_trl_cannot_call_is_one_line(text: str | None, message: str) -> None:
    if text is not None:
        write(text)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_own_reward("mine.py:brief")
    assert "rewards names 'mine.py:brief'" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_needed_columns_have_no_default_and_come_from_the_data() -> None:
    write("def brief(completions, emotion, weight, *, votes, source=None, log_metric, **columns): ...")
    assert list_needed_columns(load_own_reward("mine.py:brief")) == ["emotion", "weight", "votes"]


def test_a_digest_is_that_of_the_content() -> None:
    write(BRIEF.format(limit=3))
    write(BRIEF.format(limit=3), "other.py")
    first = digest_files(["mine.py", "other.py", "mine.py"])
    assert list(first) == ["reward file mine.py", "reward file other.py"]
    assert len(set(first.values())) == 1
    write(BRIEF.format(limit=2))
    assert digest_files(["mine.py"]) != {key: first[key] for key in ["reward file mine.py"]}
