"""What a training process holds after a step, and what of it grows: memory, caches, buffers, handles, threads."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

WARM_UP = 0.4  # share of the steps that is not judged: the first epoch (150 steps of 500) fills vLLM's cache of images
SHORT = 100  # steps below which the memory of the process is not judged: the allocator has not settled


@dataclass(frozen=True)
class Held:
    """Something that a process holds.

    Args:
        title: of its panel.
        allowed: growth in 100 steps.
        from_steps: judged in runs of so many steps.
    """

    title: str
    allowed: float
    from_steps: int = 0


HELD = {
    "memory_mib": Held("memory of the process, MiB", 10, SHORT),
    "children_mib": Held("memory of its children, MiB", 10, SHORT),
    "tensors_mib": Held("tensors, MiB", 0.1),
    # W&B keeps its last 100 tables, of some 250 objects each with 32 images: 10 steps apart, until step 1,000
    "objects": Held("Python objects that may hold others", 3_000),
    "files": Held("open file handles", 0.5),
    "threads": Held("threads, with those of children", 0.5),
    "shared_maps": Held("files mapped from /dev/shm", 0.5),
    "encoder_cache": Held("images in vLLM's encoder cache", 1),
    "worker_encoder_cache": Held("images in its worker's cache", 1),
    "processed_images": Held("processed images in vLLM", 1),
    "prefix_blocks": Held("blocks in vLLM's prefix cache", 10),
    "requests": Held("requests that vLLM still knows", 0.5),
    "metric_values": Held("values in TRL's metrics", 1),
    "logged_rows": Held("rows in TRL's log of completions", 1),
}
# They grow by what the run is there to write: recorded and drawn, not judged
WRITTEN = {
    "log_entries": "entries of the log",
    "folder_mib": "run folder, MiB",
    "folder_files": "files in the run folder",
}


def measure(trainer: Any, folder: Path) -> dict[str, float]:
    """Return what the process holds now.

    Args:
        trainer: an `EmoR3Trainer`, with a colocated vLLM or without.
        folder: the run's folder.
    """
    gc.collect()
    process = psutil.Process()
    children = process.children(recursive=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "step": trainer.state.global_step,
        "memory_mib": process.memory_info().rss / 2**20,
        "children_mib": sum(child.memory_info().rss for child in children) / 2**20,
        "tensors_mib": _sum_tensors() / 2**20,
        "objects": len(gc.get_objects()),
        "files": process.num_fds() + sum(child.num_fds() for child in children),
        "threads": process.num_threads() + sum(child.num_threads() for child in children),
        "shared_maps": sum(_count_shared_maps(found.pid) for found in (process, *children)),
        **_measure_engine(trainer),
        "metric_values": sum(len(values) for metrics in trainer._metrics.values() for values in metrics.values()),
        "logged_rows": sum(map(len, _list_buffers(trainer._logs))),
        "log_entries": len(trainer.state.log_history),
        "folder_mib": sum(path.stat().st_size for path in files) / 2**20,
        "folder_files": len(files),
    }


def find_growth(curve: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return by how much each thing grows in 100 steps, where it grows more than it may.

    The trend is the median of the slopes between all pairs of points (Theil and Sen), so that a checkpoint that is
    being written does not count.

    Args:
        curve: what `measure` returned, by step.
    """
    trends, steps = fit_trends(curve), len(curve) and curve[-1]["step"] - curve[0]["step"]
    return {
        name: trends[name] for name, held in HELD.items() if steps >= held.from_steps and trends[name] > held.allowed
    }


def fit_trends(curve: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the growth of each thing in 100 steps, after the warm-up."""
    late = curve[int(len(curve) * WARM_UP) :]
    steps = np.array([point["step"] for point in late])
    first, second = np.triu_indices(len(late), k=1)
    trends = {}
    for name in (*HELD, *WRITTEN):
        values = np.array([point[name] for point in late])
        slopes = (values[second] - values[first]) / (steps[second] - steps[first])
        trends[name] = round(100 * float(np.median(slopes)), 3)
    return trends


def _measure_engine(trainer: Any) -> dict[str, int]:
    """Return what the colocated vLLM holds."""
    engine = trainer.vllm_generation.llm.llm_engine
    core = engine.engine_core.engine_core
    scheduler = core.scheduler
    return {
        "encoder_cache": len(scheduler.encoder_cache_manager.cached),
        "worker_encoder_cache": len(core.model_executor.driver_worker.worker.model_runner.encoder_cache),
        "processed_images": len(getattr(engine.renderer.mm_processor_cache, "_cache", ())),
        "prefix_blocks": len(scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block),
        "requests": len(engine.output_processor.request_states) + len(scheduler.requests),
    }


def _list_buffers(logs: dict[str, Any]) -> list[Any]:
    """Return the columns of TRL's log of completions, which stand in dictionaries by kind."""
    buffers: list[Any] = []
    for value in logs.values():
        buffers += _list_buffers(value) if isinstance(value, dict) else [value]
    return buffers


def _sum_tensors() -> int:
    """Return the bytes of all tensors, those that share a storage once."""
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and not thing.is_meta:
            try:
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # a tensor without a storage
                continue
    return sum(storages.values())


def _count_shared_maps(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return len({line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line})


def describe_machine() -> dict[str, Any]:
    """Return the processor, what it can do, and the versions that matter here."""
    import transformers
    import trl
    import vllm

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    return {
        "cpu": known.get("model name", "unknown"),
        "avx512": "avx512f" in known.get("flags", ""),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {package.__name__: package.__version__ for package in (torch, transformers, trl, vllm)},
    }
