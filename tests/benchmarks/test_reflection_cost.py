"""The benchmark of the switches: arms in turn, there and back, each with the questions that it is to ask."""

import importlib
from pathlib import Path

from cheating import let_write, write_half_right
from training import tiny_dataset, tiny_trainer


def test_each_arm_asks_what_its_switches_ask(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark = importlib.import_module("reflection_cost")
    options = {"reward_funcs": None, "num_generations": 2, "per_device_train_batch_size": 4, "learning_rate": 0.0}
    rows = tiny_dataset().select([1, 3])  # the same in each step
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **options, rows=rows, use_vllm=False, probe_steps=0)
    let_write(trainer, monkeypatch, write_half_right)
    steps = benchmark.measure_steps(trainer, rounds=1)
    assert [step["arm"] for step in steps] == list(benchmark.ARMS)[::-1]
    result = benchmark.summarise(steps)
    paper = result["paper"]
    assert paper["questions"] == result["soft"]["questions"] == result["gated"]["questions"] > 0
    assert paper["generated tokens"] == result["soft"]["generated tokens"] == result["gated"]["generated tokens"]
    assert paper["prompt tokens"] == result["soft"]["prompt tokens"]
    for arm in ("contrastive", "all"):
        assert result[arm]["questions"] == result[arm]["of another image"] + paper["questions"]
        assert result[arm]["of another image"] > 0
    assert paper["reflection / paper"] == {"median": 1.0, "low": 1.0, "high": 1.0}
