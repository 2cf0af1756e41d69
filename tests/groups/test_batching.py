"""The arithmetic of batches by hand."""

import pytest

from emor3_trl.groups import batching

VALUES = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 32,
    "steps_per_generation": 64,
    "num_train_epochs": 20,
    "max_steps": -1,
}


@pytest.mark.parametrize(
    ("changes", "samples", "processes", "expected"),
    [
        # 8 x 8 x 64 = 4096 completions of 512 prompts; 2000 // 512 = 3 rollouts of 2 updates, 20 times
        pytest.param({}, 2000, 8, (4096, 512, 256, 60, 120), id="reference batch on eight"),
        pytest.param({"max_steps": 5}, 2000, 8, (4096, 512, 256, 3, 5), id="max_steps wins"),
        pytest.param({"steps_per_generation": None}, 2000, 1, (256, 32, 32, 1240, 1240), id="one update a rollout"),
        pytest.param({"num_iterations": 2}, 2000, 8, (4096, 512, 256, 60, 240), id="rollouts used twice"),
    ],
)
def test_batches(changes: dict, samples: int, processes: int, expected: tuple) -> None:
    count = batching.count_batches({**VALUES, **changes}, samples, processes)
    assert (count.completions, count.prompts, count.prompts_per_update, count.rollouts, count.updates) == expected


@pytest.mark.parametrize(
    ("processes", "per_device", "accumulation", "group"),
    [(p, b, a, g) for p in (1, 2, 3) for b in (1, 3, 4) for a in (1, 2) for g in (2, 6, 8)],
)
def test_suggested_batch_sizes_divide(processes: int, per_device: int, accumulation: int, group: int) -> None:
    values = {
        "num_generations": group,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
    }
    if processes * per_device * accumulation % group == 0:
        batching.check_batch(values, processes)
        return
    with pytest.raises(ValueError, match="do not divide") as error:
        batching.check_batch(values, processes)
    sizes = str(error.value).split("--per_device_train_batch_size ")[1].split(",")[0].rstrip(".").split(" or ")
    for size in sizes:
        batching.check_batch({**values, "per_device_train_batch_size": int(size)}, processes)
