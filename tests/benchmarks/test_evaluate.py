"""The benchmark of evaluation: arms in turn, what agrees, and an arm that is left out where its package is missing."""

import importlib
import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def test_every_arm_starts_from_nothing_and_is_compared():
    benchmark = importlib.import_module("evaluate")
    calls: list[str] = []

    def arm(name: str, texts: list[str]):
        return lambda: calls.append(name) or texts

    arms = {"loop": arm("loop", ["a", "b"]), "vllm": arm("vllm", ["a", "b"]), "lmms_eval": arm("lmms_eval", ["a", "c"])}
    result = benchmark.measure(arms, 2, lambda: calls.append("forget"))
    assert calls[::2] == ["forget"] * 9
    assert calls[1::2] == ["loop", "vllm", "lmms_eval", "lmms_eval", "vllm", "loop", "loop", "vllm", "lmms_eval"]
    assert result["same_completions_as_loop"] == {"loop": 2, "vllm": 2, "lmms_eval": 1}
    assert list(result["speedups"]) == ["vllm over loop", "lmms_eval over loop", "vllm over lmms_eval"]
    assert all(len(times) == 2 for times in result["seconds"].values())  # the warm-up is not counted


def test_an_arm_without_its_package_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arm = importlib.import_module("lmms_eval_arm")
    assert arm.build_arm(llm=None, dataset=[], batch_size=1, max_tokens=1) is None
    assert "pip install lmms-eval" in capsys.readouterr().out
