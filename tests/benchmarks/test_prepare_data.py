"""The benchmark of data preparation at a tiny size: both sides prepare every photo, and the ratio is theirs."""

import importlib
import io
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("prepare_data")
    monkeypatch.setattr(module, "PHOTO_SIZES", ((700, 500), (640, 800)))
    monkeypatch.setattr(module, "DRAWN_PHOTOS", 3)
    return module


def test_loop_and_preparation_take_the_same_photos(benchmark, tmp_path):
    result = benchmark.throughput(tmp_path, photos=5, rounds=1)
    assert result["photos"] == 5
    files = [path.read_bytes() for path in sorted((tmp_path / "source" / "image").rglob("*.jpg"))]
    assert len(set(files)) == 5, "equal files would be left out"
    pixels = {Image.open(io.BytesIO(file)).tobytes() for file in files}
    assert len(pixels) == 3
    by_hand = [Image.open(path).size for path in (tmp_path / "by_hand").iterdir()]
    assert len(by_hand) == 5
    assert all(side % 28 == 0 for size in by_hand for side in size)
    speeds = result["photos_per_second"]
    assert result["ratio"]["median"] == pytest.approx(speeds["prepare"] / speeds["loop"], rel=0.05)
    without = result["ratio_without_saving"]["median"]
    assert without == pytest.approx(speeds["prepare"] / speeds["loop_without_saving"], rel=0.05)


def test_a_machine_is_described_and_ratios_are_taken_pair_by_pair(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    machine = importlib.import_module("machine")
    described = machine.describe_machine("pillow")
    assert described["instructions"] in ("AVX-512", "AVX2", "unknown")
    assert list(described["versions"]) == ["pillow"]
    assert machine.summarise_ratios([4, 9, 2], [2, 3, 2]) == {"median": 2, "low": 1, "high": 3}
