"""On which machine figures were measured, and how ratios of runs in turn are told."""

import importlib.metadata
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe_machine(*packages: str) -> dict[str, Any]:
    """Return the CPU, its vector instructions, its cores, and the versions of packages that are installed."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    return {
        "cpu": known.get("model name", "unknown"),
        "instructions": "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "unknown",
        "cores": os.cpu_count(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def summarise_ratios(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest ratio of what was measured in turn."""
    ratios = [above / below for above, below in zip(slower, faster, strict=True)]
    return {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}
