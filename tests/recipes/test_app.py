"""recipes/app.py before a model loads: each mistake is one line, and nothing is served."""

import socket
import sys
from pathlib import Path

import pytest
from recipe_commands import ROOT, RecipeRunner

from emor3_trl.app.arguments import AppArguments
from emor3_trl.run.command_line import parse_arguments

LABELS = ["--label_space", "joy,anger"]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> RecipeRunner:
    return RecipeRunner("app", monkeypatch, capsys)


@pytest.fixture
def place(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A folder with a model."""
    (tmp_path / "model").symlink_to(tiny_model_dir)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--model", "model", "--base", "nowhere"], "There is no model at 'nowhere'", id="no second one"),
        pytest.param(["--model", "model", "--base", "model"], "which is the model itself", id="the same twice"),
        pytest.param(["--model", "model", "--port", "99999"], "port is 99999", id="no such port"),
        pytest.param(["--model", "model", "--label_space", "joy,<b>"], "The label '<b>'", id="labels"),
        pytest.param(["--model", "model", "--max_tokens", "0"], "max_tokens is 0", id="no room"),
        pytest.param([], "There is no model at 'runs/demo/emo_r3'", id="a bare call before the demo"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_loads(
    place: Path, app: RecipeRunner, arguments: list[str], expected: str
) -> None:
    refused = app(place, *arguments, *LABELS * ("--label_space" not in arguments))
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert "Loading" not in refused.stdout


def test_a_port_in_use_is_one_line(place: Path, app: RecipeRunner) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused = app(place, "--model", "model", *LABELS, "--port", port)
    assert refused.returncode == 2
    assert f"port is {port}, which cannot be opened (Address already in use)" in refused.stderr
    assert "Loading" not in refused.stdout


def test_without_gradio_the_line_says_what_to_install(
    place: Path, app: RecipeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused = app(place, "--model", "model", *LABELS)
    assert refused.returncode == 2
    assert "pip install -e .[app]" in refused.stderr


@pytest.mark.parametrize(("name", "run"), [("demo", "demo"), ("smollm2_vl", "english")])
def test_a_demo_s_configuration_shows_its_models_beside_one_another(name: str, run: str) -> None:
    config = ROOT / "recipes" / "configs" / name / "app.yaml"
    (args,) = parse_arguments([AppArguments], argv=["--config", str(config)]).arguments
    assert (args.model, args.base) == (f"runs/{run}/emo_r3", f"runs/{run}/base")
