"""recipes/evaluate.py for Table 1's first rows: Vanilla and SEPM, on LLaVA-1.5 and Qwen2.5-VL."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recipe_commands import RecipeRunner
from tiny_llava import build_tiny_llava
from tiny_model import build_tiny_model, tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.emotions import EMOSET_8, EMOTION6
from emor3_trl.engines import opening
from emor3_trl.evaluation.prediction import load_predictions

BUILDERS = {"llava": build_tiny_llava, "qwen2_5_vl": build_tiny_model}
COMMON = ["--model", "model", "--data", "data", "--dtype", "float32", "--max_tokens", "8", "--batch_size", "2"]
SEPM = [*COMMON, "--method", "sepm", "--prompt_style", "direct"]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> RecipeRunner:
    return RecipeRunner("evaluate", monkeypatch, capsys)


def prepare(folder: Path, family: str, count: int = 5) -> Path:
    """Write a model of a family and data with two label spaces."""
    BUILDERS[family](folder / "model")
    spaces = [EMOSET_8.labels, EMOTION6.labels]
    write_split(folder / "data", "test", [
        {"id": str(i), "image": large, "emotion": "anger", "label_space": spaces[i % 2], "source": "made"}
        for i, picture in enumerate(tiny_pictures(count))
        for large in [picture.resize((2 * picture.width, 2 * picture.height))]
    ])  # fmt: skip
    return folder


def read_results(folder: Path):
    return load_predictions(folder / "predictions.parquet"), json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow  # vLLM starts three times
def test_llava_writes_the_same_on_both_engines_with_every_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    evaluate = RecipeRunner("evaluate", monkeypatch, capfd)  # vLLM needs a standard output with a file descriptor
    prepare(tmp_path, "llava")
    written = {}
    for style in ("set", "think", "direct"):
        results = {}
        for engine in ("vllm", "transformers"):
            output = ["--output_dir", f"{engine}-{style}"]
            done = evaluate(tmp_path, *COMMON, "--engine", engine, "--prompt_style", style, *output)
            assert done.returncode == 0, done.stderr
            results[engine], metrics = read_results(tmp_path / f"{engine}-{style}" / "model")
            assert metrics["eval/test/n"] == 5
        for one, other in zip(results["vllm"], results["transformers"], strict=True):
            assert one.label_probabilities == pytest.approx(other.label_probabilities, abs=1e-5)
            # A character that the limit cuts in two is "\ufffd" on transformers, and nothing on vLLM
            whole = other.completion.rstrip("\ufffd")
            assert replace(one, label_probabilities=None) == replace(other, label_probabilities=None, completion=whole)
        written[style] = [row.completion for row in results["vllm"]]
        assert len(set(written[style])) > 1, "the answers do not depend on the picture"
    assert len(set(map(tuple, written.values()))) == 3, "the answers do not depend on the prompt"


@pytest.mark.parametrize("family", BUILDERS)
def test_sepm_is_an_evaluation_like_any_other(tmp_path: Path, evaluate: RecipeRunner, family: str) -> None:
    prepare(tmp_path, family)
    done = evaluate(tmp_path, *SEPM, "--output_dir", "sepm", "--sampled", "2")
    assert done.returncode == 0, done.stderr
    predictions, metrics = read_results(tmp_path / "sepm" / "model")
    assert metrics["eval/test/n"] == 5
    assert metrics["eval/test/sampled_n"] == 10
    kept = {"llava": [23] * 5, "qwen2_5_vl": [15, 22, 29, 15, 22]}[family]  # of 25; of 16, 24 and 32
    assert [row.kept_image_tokens for row in predictions] == kept
    for row in predictions:
        certainty = row.positive_probability - 0.5
        expected = "ambiguous" if certainty**2 < 0.1 else "positive" if certainty > 0 else "negative"
        assert row.polarity == expected
    again = evaluate(tmp_path, *SEPM, "--output_dir", "sepm", "--sampled", "2")
    assert "already finished" in again.stdout
    asked = evaluate(tmp_path, *COMMON, "--prompt_style", "direct", "--engine", "transformers", "--output_dir", "sepm",
                     "--sampled", "2")  # fmt: skip
    assert asked.returncode == 2
    assert "method" in asked.stderr  # another method is another evaluation


def test_a_stopped_sepm_goes_on_where_it_was(
    tmp_path: Path, evaluate: RecipeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, "llava")
    whole = evaluate(tmp_path, *SEPM, "--output_dir", "whole")
    assert whole.returncode == 0, whole.stderr
    complete, calls = opening.TransformersEngine.complete, []

    def stop_in_the_second_batch(self, inputs, **options):
        calls.append(len(inputs["attention_mask"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return complete(self, inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(opening.TransformersEngine, "complete", stop_in_the_second_batch)
        stopped = evaluate(tmp_path, *SEPM, "--output_dir", "stopped")
    assert stopped.returncode != 0
    assert not (tmp_path / "stopped" / "model" / "metrics.json").exists()
    resumed = evaluate(tmp_path, *SEPM, "--output_dir", "stopped")
    assert resumed.returncode == 0, resumed.stderr
    (predictions, metrics), (expected, whole_metrics) = (
        read_results(tmp_path / name / "model") for name in ("stopped", "whole")
    )
    assert predictions == expected
    assert metrics | {"eval/seconds": 0} == whole_metrics | {"eval/seconds": 0}


def test_a_model_that_is_not_there_is_named_for_sepm_as_for_others(tmp_path: Path, evaluate: RecipeRunner) -> None:
    prepare(tmp_path, "llava", count=2)
    done = evaluate(tmp_path, "--method", "sepm", "--model", "nobody/nothing", "--data", "data")
    assert done.returncode == 2
    assert "download the model first" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--engine", "vllm"], "gives no attention weights", id="vllm"),
        pytest.param([], "of the family llava_next. Expected one of llava, qwen2_5_vl", id="family"),
    ],
)
def test_what_sepm_cannot_use_is_refused_before_a_model_loads(
    tmp_path: Path, evaluate: RecipeRunner, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    from families import build_family

    prepare(tmp_path, "llava", count=2)
    build_family("llava_next", tmp_path / "model")
    monkeypatch.setattr(opening, "whole_checkpoint", None)  # what loads first
    done = evaluate(tmp_path, *SEPM, *arguments)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert message in error
    assert len(error) <= 300
