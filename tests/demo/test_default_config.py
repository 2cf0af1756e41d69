"""What a recipe runs when it is told nothing: by what the machine has, and by what ran before."""

from pathlib import Path

import pytest

from emor3_trl import demo

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("recipe", "gpus", "cold_start", "expected", "reason"),
    [
        pytest.param("grpo", 0, False, "demo/emo_r3.yaml", "no GPU here", id="CPU"),
        pytest.param("grpo", 0, True, "demo/emo_r3_cold_start.yaml", "cold_start is finished", id="after a cold start"),
        pytest.param("grpo", 1, True, "qwen2_5_vl_3b/emoset_emo_r3_lora_24gb.yaml", "one GPU", id="one GPU"),
        pytest.param("grpo", 8, False, "qwen2_5_vl_3b/emoset_emo_r3.yaml", "several GPUs", id="several GPUs"),
        pytest.param("cold_start", 0, True, "demo/cold_start.yaml", "no GPU here", id="cold start, CPU"),
        pytest.param("cold_start", 1, False, "qwen2_5_vl_3b/emoset_cold_start.yaml", "one GPU", id="cold start, GPU"),
        pytest.param("evaluate", 1, False, "demo/evaluate.yaml", "no --model", id="evaluation"),
        pytest.param("app", 1, False, "demo/app.yaml", "no --model", id="page"),
    ],
)
def test_a_bare_call_runs_what_the_machine_can(
    recipe: str, gpus: int, cold_start: bool, expected: str, reason: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{recipe}.py", "--seed", "2"])
    monkeypatch.setattr(demo, "count_devices", lambda: gpus)
    if cold_start:
        (tmp_path / "runs/demo/cold_start").mkdir(parents=True)
        (tmp_path / "runs/demo/cold_start/metrics.json").write_text("{}")
    config = demo.default_config(RECIPES / f"{recipe}.py")
    assert config == RECIPES / "configs" / expected
    assert config.is_file()
    said = capsys.readouterr().out
    assert "No --config given: using" in said
    assert expected in said
    assert reason in said


@pytest.mark.parametrize(
    ("recipe", "argument"),
    [
        ("grpo", "--config=x.yaml"),
        ("grpo", "--config"),
        ("grpo", "--help"),
        ("cold_start", "--help_all"),
        ("evaluate", "--model"),
        ("evaluate", "--models=runs/mine"),
        ("evaluate", "--data"),
        ("app", "--model"),
    ],
)
def test_a_call_that_says_what_to_run_gets_no_other(
    recipe: str, argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", [f"{recipe}.py", argument])
    assert demo.default_config(RECIPES / f"{recipe}.py") is None
    assert capsys.readouterr().out == ""
