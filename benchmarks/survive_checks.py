"""What `survive.py` looks at: whether two folders hold the same, and what a killed command left on the machine."""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "EMOR3_SURVIVE"  # a variable in the environment of a command, which all of its processes inherit
# What a clock decides, or tells of the launches themselves
CLOCK = re.compile(r"runtime|seconds|per_second|^time/|_time$|^started$|^is_whole$|^train_mfu$")
LOGS = ("log.txt",)  # say that a run was resumed; that they are there is compared
# Seconds until a process counts as left: a rank whose launcher is killed while it imports ends after its imports
GRACE = 60.0


@dataclass
class Comparison:
    """What tells one folder from another.

    Args:
        worst: largest difference of two numbers.
        files: files whose content was compared.
        faults: what is there once, or is another text.
    """

    worst: float = 0.0
    files: int = 0
    faults: list[str] = field(default_factory=list)


def compare_folders(folder: Path, expected: Path) -> Comparison:
    """Compare all files of two folders, number by number; what a clock decides is left out.

    Args:
        folder: what a command that was killed and started again left.
        expected: what an uninterrupted one left.
    """
    result = Comparison()
    left, right = list_files(folder), list_files(expected)
    result.faults += [f"left behind: {name}" for name in sorted(left - right)]
    result.faults += [f"missing: {name}" for name in sorted(right - left)]
    for name in sorted(left & right):
        if Path(name).name in LOGS:
            continue
        result.files += 1
        if (folder / name).read_bytes() == (expected / name).read_bytes():
            continue
        values, others = (dict(_flatten(_read(place / name))) for place in (folder, expected))
        result.faults += [f"{name}: {key} is there once" for key in sorted(values.keys() ^ others.keys())[:3]]
        for key in values.keys() & others.keys():
            _compare_values(f"{name}: {key}", values[key], others[key], result)
    return result


def excuse_checkpoint(faults: list[str], lines: list[str]) -> tuple[list[str], str]:
    """Take the checkpoint that a stop saved, and the one that save_total_limit dropped for it, from the faults.

    Args:
        faults: of `compare_folders`.
        lines: what the stopped command said.

    Returns:
        The other faults; and which checkpoint was kept in place of which, empty where there is none.
    """
    saved = re.search(r"(\S+/checkpoint-\d+) is saved", " ".join(lines))
    own = {fault for fault in faults if saved and fault.startswith(f"left behind: {saved[1]}/")}
    missing = {found[1] for fault in faults if (found := re.match(r"missing: (\S+/checkpoint-\d+)/", fault))}
    if saved is None or not own or len(missing) > 1:
        return faults, ""
    dropped = {fault for fault in faults for name in missing if fault.startswith(f"missing: {name}/")}
    return [fault for fault in faults if fault not in own | dropped], f"{saved[1]} for {''.join(missing) or 'none'}"


def list_files(folder: Path) -> set[str]:
    """Return all files and links of a folder, and the folders that hold none, by their path in it."""
    paths = folder.rglob("*")
    return {str(path.relative_to(folder)) for path in paths if not path.is_dir() or not any(path.iterdir())}


def _compare_values(name: str, value: Any, other: Any, result: Comparison) -> None:
    if isinstance(value, (bool, str, bytes, type(None))) or isinstance(other, (bool, str, bytes, type(None))):
        if value != other:
            result.faults.append(f"{name} is {str(value)[:60]!r}, not {str(other)[:60]!r}")
        return
    if hasattr(value, "shape"):
        import numpy as np

        if value.shape != other.shape:
            result.faults.append(f"{name} has shape {value.shape}, not {other.shape}")
        elif value.size:
            difference = float(np.abs(value.astype(np.float64) - other.astype(np.float64)).max())
            result.worst = max(result.worst, difference if math.isfinite(difference) else math.inf)
        return
    difference = 0.0 if value == other or (value != value and other != other) else abs(value - other)
    result.worst = max(result.worst, difference if math.isfinite(difference) else math.inf)


def _read(file: Path) -> Any:
    """Return what a file holds, as nested mappings and lists of numbers, texts and arrays."""
    if file.name == "figure5.png":  # the seconds of a step
        return None
    if file.name == "checksums.json":  # of files that are compared themselves, and of clocks in them
        return sorted(json.loads(file.read_bytes())["files"])
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix == ".yaml":
        import yaml

        return yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(file)
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    if file.suffix in (".pt", ".pth"):
        import torch

        return torch.load(file, map_location="cpu", weights_only=False)  # this benchmark has just made it
    if file.suffix == ".bin":
        import torch

        return torch.load(file, map_location="cpu", weights_only=False).to_dict()
    if file.suffix == ".md":
        text = re.sub(r"started [\d:T+-]+", "started", file.read_text(encoding="utf-8"))
        return [line for line in text.splitlines() if not CLOCK.search(line)]
    return file.read_bytes()


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each number, text or array of nested mappings and lists, by its place; none that a clock decides."""
    if hasattr(value, "detach"):
        value = value.detach().float().numpy() if value.is_floating_point() else value.detach().numpy()
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not CLOCK.search(str(key)):
                yield from _flatten(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _flatten(item, f"{name}[{place}]")
    elif isinstance(value, (int, float, str, bytes, type(None))) or hasattr(value, "shape"):
        yield name, value
    else:
        yield name, str(value)


def list_marked(mark: str) -> list[Any]:
    """Return the living processes that were started under a mark, whatever their group or parent."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def find_orphans(mark: str) -> list[str]:
    """Return the commands of processes that outlive their killed command, and end them."""
    deadline = time.monotonic() + GRACE
    while (found := list_marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    commands = []
    for process in found:
        commands.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
        process.kill()
    return commands


def list_segments() -> set[str]:
    """Return the segments of shared memory of this machine."""
    return set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()


def find_segments(before: set[str]) -> list[str]:
    """Return the segments of shared memory that are new, and that no living process has open."""
    new = list_segments() - before
    deadline = time.monotonic() + GRACE
    while (left := new & list_segments() - _list_mapped()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return sorted(left)


def _list_mapped() -> set[str]:
    names = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "maps").read_text()
            text += "\n".join(os.readlink(file) for file in (process / "fd").iterdir())
        except OSError:
            continue
        names |= set(re.findall(r"/dev/shm/([^\s/]+)", text))
    return names
