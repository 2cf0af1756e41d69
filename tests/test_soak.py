"""A short soak: what a training process holds stays flat from step to step, and a made leak is told of by its name."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from training import tiny_trainer
from transformers import TrainerCallback

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from soak_meter import HELD, WRITTEN, find_growth, measure

STEPS = 12


class Watch(TrainerCallback):
    """Measures each step; after the first dozen it keeps a tensor, a file, a thread and objects of each step."""

    def __init__(self, trainer: Any, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self.curve: list[dict[str, float]] = []
        self.leaked: list[Any] = []
        self.end = threading.Event()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.curve.append(measure(self.trainer, self.folder))
        if state.global_step >= STEPS:
            thread = threading.Thread(target=self.end.wait, daemon=True)
            thread.start()
            made = [[index] for index in range(100)]
            self.leaked.append((torch.ones(2**18), (self.folder / "kept").open("w"), thread, made))


def make_curve(**growing: float) -> list[dict[str, float]]:
    """Return a curve of 200 steps, flat but for what grows in each step."""
    names = (*HELD, *WRITTEN)
    return [{"step": step, **{name: 100 + step * growing.get(name, 0) for name in names}} for step in range(0, 200, 5)]


@pytest.mark.slow
def test_a_run_holds_no_more_after_a_dozen_steps_and_a_leak_is_found(tiny_model_dir: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=2 * STEPS, reward_funcs=None, log_completions=True,
                           num_completions_to_print=0, save_strategy="steps", save_steps=6)  # fmt: skip
    watch = Watch(trainer, tmp_path)
    trainer.add_callback(watch)
    try:
        trainer.train()
    finally:
        watch.end.set()
        for _, file, thread, _ in watch.leaked:
            file.close()
            thread.join()
    assert find_growth(watch.curve[: STEPS + 1]) == {}
    leaks = find_growth(watch.curve[STEPS + 1 :])
    assert {"tensors_mib", "objects", "files", "threads"} <= leaks.keys()
    assert leaks["tensors_mib"] == pytest.approx(100, abs=5)  # MiB, of one in each step
    for name in ("files", "threads"):  # of one in each step; a library's own may come or go meanwhile
        assert leaks[name] == pytest.approx(100, abs=25)


@pytest.mark.parametrize("name", HELD)
def test_a_steady_growth_of_anything_is_found(name: str) -> None:
    assert find_growth(make_curve()) == {}
    assert list(find_growth(make_curve(**{name: 2 * HELD[name].allowed / 100}))) == [name]


def test_what_a_run_is_there_to_write_may_grow_and_a_single_peak_is_no_growth() -> None:
    curve = make_curve(**dict.fromkeys(WRITTEN, 3.0))
    curve[-3]["memory_mib"] += 500
    assert find_growth(curve) == {}
