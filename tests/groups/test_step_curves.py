"""A point of the curves of `benchmarks/step_cost.py` times ways that compute the same numbers."""

import importlib
from pathlib import Path

import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_each_way_scores_a_group_alike(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    curves, setting, grouper = map(importlib.import_module, ("step_curves", "step_setting", "step_grouper"))
    monkeypatch.setattr(curves, "COMPLETION", 6)
    setting.build_model(tmp_path / "model", hidden=64, layers=1, vision_hidden=32)
    for pictured in (True, False):
        point = curves.measure_point(tmp_path, 2, 64, pairs=1, pictured=pictured)
        assert point["largest_difference"] < 1e-5
        assert point["gain"]["median"] > 0
        assert point["image_tokens"] == (64 if pictured else 0)
        assert ("gain_over_prefix_grouper" in point) is grouper.is_installed()


def test_the_processor_is_named_with_its_vectors(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    name = importlib.import_module("step_cost").name_cpu()
    flags = Path("/proc/cpuinfo").read_text()
    assert name.endswith("AVX-512") is ("avx512f" in flags)


def test_memory_that_does_not_grow_has_no_ratio(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    curves = importlib.import_module("step_curves")
    ways = dict.fromkeys(("stock", "packed"), lambda: torch.ones(1, 1))
    point = curves.Point(ways, torch.ones(1, 1, requires_grad=True), torch.nn.Linear(1, 1))
    monkeypatch.setattr(curves, "make_point", lambda *_: point)
    monkeypatch.setattr(curves, "peak_rss", lambda: 0)
    monkeypatch.setattr(curves, "reset_peak", lambda: 0)
    assert curves.measure_point(tmp_path, 2, 64, pairs=2)["peak_memory_ratio"] is None
