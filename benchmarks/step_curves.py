"""One point of the curves of `step_cost.py`: forward and backward alone, stock and packed in turn, in one process.

python benchmarks/step_curves.py 8x676 FOLDER PAIRS     # started by step_cost.py: G x image tokens; a line of JSON
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

from step_meter import peak_rss, reset_peak
from step_setting import COMPLETION, GROUP, IMAGE, SIDES, TEXT, spread


@dataclass
class Point:
    """A group of completions about one picture, to be scored with a gradient in two ways.

    Args:
        stock, packed: return the log-probabilities, shape (G, T), as TRL computes them and from one packed row.
        weights: what the log-probabilities are multiplied with before the backward, shape (G, T).
        model: the model that both use.
    """

    stock: Callable[[], Any]
    packed: Callable[[], Any]
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


def make_point(folder: Path, group: int, image: int) -> Point:
    """Return the point with `group` completions about a picture of `image` tokens."""
    import torch
    from transformers import AutoModelForImageTextToText
    from trl.trainer.utils import add_fused_lm_head

    from emor3_trl.groups import attention, packing

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    token, (height, width) = model.config.image_token_id, SIDES[image]
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(20, 700, (TEXT,), generator=generator)
    own = torch.cat([text[:4], torch.full((image,), token), text[4:]])
    ids = torch.cat([own.expand(group, -1), torch.randint(20, 700, (group, COMPLETION), generator=generator)], dim=1)
    mask = torch.ones_like(ids)
    pixels = torch.randn(4 * image, 1176, generator=generator).repeat(group, 1)
    grid = torch.tensor([[1, 2 * height, 2 * width]]).repeat(group, 1)
    weights = torch.randn(group, COMPLETION, generator=generator)

    def stock() -> Any:
        attention.remove_attention(model)
        labels = ids.clone()
        labels[:, :-COMPLETION] = -100
        output = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            pixel_values=pixels,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == token).int(),
            fused_lm_head=True,
        )
        return output.log_probs[:, -COMPLETION:]

    def packed() -> Any:
        attention.install_attention(model)
        row = packing.pack(ids, mask, COMPLETION, model.model.get_rope_index, token, pixels, grid, [1] * group)
        return row.unpack(model(**row.inputs(), fused_lm_head=True).log_probs)

    return Point(stock, packed, weights, model)


def measure_point(folder: Path, group: int, image: int, pairs: int) -> dict[str, Any]:
    """Time forward and backward of a group, as TRL does it and packed, in turn."""
    point = make_point(folder, group, image)
    point.run(point.packed)  # warm up
    records = []
    for _ in range(pairs):
        (a, peak_a, stock_values), (b, peak_b, packed_values) = point.run(point.stock), point.run(point.packed)
        records.append({"gain": a / b, "stock": a, "packed": b, "memory": peak_b / peak_a})
        difference = (stock_values - packed_values).abs().max().item()
    bound = group * (TEXT + image + COMPLETION) / (TEXT + image + group * COMPLETION)
    gains = [record["gain"] for record in records]
    return {
        "group": group,
        "image_tokens": image,
        "bound": round(bound, 3),
        "gain": spread(gains),
        "share_of_bound": round(statistics.median(gains) / bound, 3),
        "seconds_stock": round(statistics.median(record["stock"] for record in records), 3),
        "seconds_packed": round(statistics.median(record["packed"] for record in records), 3),
        "peak_memory_ratio": round(statistics.median(record["memory"] for record in records), 3),
        "largest_difference": difference,
    }


def profile(folder: Path, most: int = 12) -> list[dict[str, Any]]:
    """Return the operators of a packed forward and backward that take the most time themselves, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    point = make_point(folder, GROUP, IMAGE)
    point.run(point.packed)  # warm up
    with recorded(activities=[ProfilerActivity.CPU]) as record:
        point.run(point.packed)
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
        group, image = map(int, what.split("x"))
        print(json.dumps(measure_point(Path(folder), group, image, int(pairs[0]))))


if __name__ == "__main__":
    main()
