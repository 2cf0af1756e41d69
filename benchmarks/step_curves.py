"""One point of the curves of `step_cost.py`: forward and backward alone, in turn in one process.

python benchmarks/step_curves.py 8x676 FOLDER PAIRS     # started by step_cost.py: G x image tokens; a line of JSON
python benchmarks/step_curves.py 8t676 FOLDER PAIRS     # the same length, all of it text
python benchmarks/step_curves.py profile FOLDER         # where the time of a packed forward and backward goes
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import step_grouper
from step_meter import peak_rss, reset_peak
from step_setting import COMPLETION, GROUP, IMAGE, SIDES, TEXT, spread


@dataclass
class Point:
    """A group of completions about one picture, to be scored with a gradient in two or three ways.

    Args:
        ways: each returns the log-probabilities, shape (G, T): `stock` as TRL computes them, `packed` from one packed
            row, `grouper` as prefix-grouper does, where it is installed.
        weights: what the log-probabilities are multiplied with before the backward, shape (G, T).
        model: the model that both use.
    """

    ways: dict[str, Callable[[], Any]]
    weights: Any
    model: Any

    def run(self, score: Callable[[], Any]) -> tuple[float, int, Any]:
        """Return the seconds of one forward and backward, their peak memory in bytes, and the log-probabilities."""
        self.model.zero_grad()
        gc.collect()
        resident, begin = reset_peak(), time.perf_counter()
        values = score()
        (values * self.weights).sum().backward()
        return time.perf_counter() - begin, peak_rss() - resident, values.detach()


def make_point(folder: Path, group: int, image: int, pictured: bool = True) -> Point:
    """Return the point with `group` completions about a picture of `image` tokens, or about as many of text."""
    import torch
    from transformers import AutoModelForImageTextToText
    from trl.trainer.utils import add_fused_lm_head

    from emor3_trl.groups import attention, packing

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    token, (height, width) = model.config.image_token_id, SIDES.get(image, (0, 0))
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(20, 700, (TEXT,), generator=generator)
    middle = torch.full((image,), token) if pictured else torch.randint(20, 700, (image,), generator=generator)
    question = torch.cat([text[:4], middle, text[4:]])
    completions = torch.randint(20, 700, (group, COMPLETION), generator=generator)
    ids = torch.cat([question.expand(group, -1), completions], dim=1)
    mask = torch.ones_like(ids)
    pixels = torch.randn(4 * image, 1176, generator=generator)
    grid = torch.tensor([[1, 2 * height, 2 * width]])
    single = {"pixel_values": pixels, "image_grid_thw": grid} if pictured else {}
    images = {name: value.repeat(group, 1) for name, value in single.items()}
    weights = torch.randn(group, COMPLETION, generator=generator)

    def stock() -> Any:
        attention.remove_attention(model)
        labels = ids.clone()
        labels[:, :-COMPLETION] = -100
        output = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            mm_token_type_ids=(ids == token).int(),
            fused_lm_head=True,
            **images,
        )
        return output.log_probs[:, -COMPLETION:]

    def packed() -> Any:
        attention.install_attention(model)
        counts = {"num_images": [1] * group} if pictured else {}
        row = packing.pack(ids, mask, COMPLETION, model.model.get_rope_index, token, **images, **counts)
        return row.unpack(model(**row.inputs(), fused_lm_head=True).log_probs)

    ways = {"stock": stock, "packed": packed}
    if step_grouper.is_installed():
        ways["grouper"] = lambda: step_grouper.score_grouped(model, question, completions, single)
    return Point(ways, weights, model)


def measure_point(folder: Path, group: int, image: int, pairs: int, pictured: bool = True) -> dict[str, Any]:
    """Time forward and backward of a group, as TRL does it, packed, and by prefix-grouper, in turn."""
    point = make_point(folder, group, image, pictured)
    for name in [name for name in point.ways if name != "stock"]:  # warm up
        point.run(point.ways[name])
    seconds: dict[str, list[float]] = {name: [] for name in point.ways}
    memory, differences = [], []
    for turn in range(pairs):
        names = list(point.ways)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        runs = {name: point.run(point.ways[name]) for name in names}
        for name, (taken, _, values) in runs.items():
            seconds[name].append(taken)
            differences.append((values - runs["stock"][2]).abs().max().item())
        if runs["stock"][1]:  # none where the process had kept freed memory that was enough
            memory.append(runs["packed"][1] / runs["stock"][1])
    bound = group * (TEXT + image + COMPLETION) / (TEXT + image + group * COMPLETION)
    gains = {
        name: [taken / packed for taken, packed in zip(values, seconds["packed"], strict=True)]
        for name, values in seconds.items()
    }
    return {
        "group": group,
        "image_tokens": image if pictured else 0,
        "text_tokens": TEXT if pictured else TEXT + image,
        "bound": round(bound, 3),
        "gain": spread(gains["stock"]),
        "share_of_bound": round(statistics.median(gains["stock"]) / bound, 3),
        **({"gain_over_prefix_grouper": spread(gains["grouper"])} if "grouper" in gains else {}),
        **{f"seconds_{name}": round(statistics.median(values), 3) for name, values in seconds.items()},
        "peak_memory_ratio": round(statistics.median(memory), 3) if memory else None,
        "largest_difference": max(differences),
    }


def profile(folder: Path, most: int = 12) -> list[dict[str, Any]]:
    """Return the operators of a packed forward and backward that take the most time themselves, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    point = make_point(folder, GROUP, IMAGE)
    point.run(point.ways["packed"])  # warm up
    with recorded(activities=[ProfilerActivity.CPU]) as record:
        point.run(point.ways["packed"])
    rows = record.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    rows = sorted(rows, key=lambda row: row.self_cpu_time_total, reverse=True)[:most]
    return [
        {"operator": row.key, "calls": row.count, "share": round(row.self_cpu_time_total / total, 4)} for row in rows
    ]


def main() -> None:
    """Measure what the command line says, and print a line of JSON."""
    what, folder, *pairs = sys.argv[1:]
    if what == "profile":
        print(json.dumps(profile(Path(folder))))
    else:
        kind = "x" if "x" in what else "t"
        group, image = map(int, what.split(kind))
        print(json.dumps(measure_point(Path(folder), group, image, int(pairs[0]), pictured=kind == "x")))


if __name__ == "__main__":
    main()
