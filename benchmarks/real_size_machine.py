"""The machine that a figure of real size was measured on: its name, its memory, its peak."""

import platform
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

# Dense bfloat16 TFLOP/s without sparsity, of the makers' data sheets; the first name that the card's name holds
PEAK_TFLOPS = {
    "H200": 989.0,  # NVIDIA H200 data sheet: 1,979 with sparsity (SXM)
    "H100 NVL": 835.0,  # NVIDIA H100 data sheet: 1,671 with sparsity
    "H100 PCIe": 756.0,  # NVIDIA H100 PCIe data sheet: 1,513 with sparsity
    "H100": 989.0,  # NVIDIA H100 data sheet: 1,979 with sparsity (SXM)
    "A100": 312.0,  # NVIDIA A100 data sheet
    "L40S": 362.0,  # NVIDIA L40S data sheet: 733 with sparsity
    "L4": 121.0,  # NVIDIA L4 data sheet: 242 with sparsity
    "A10G": 70.0,  # AWS and NVIDIA state 70 for the cut-down A10
    "A10": 125.0,  # NVIDIA A10 data sheet
    "A6000": 154.8,  # NVIDIA RTX A6000 data sheet: 309.7 with sparsity
    "RTX 4090": 165.2,  # NVIDIA Ada architecture whitepaper, float32 accumulation
    "RTX 3090": 71.0,  # NVIDIA Ampere GA102 whitepaper, float32 accumulation
}


def find_peak(card: str) -> float | None:
    """Return the dense bfloat16 peak of a card in FLOP/s; None if its data sheet is not in the table."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in card), None)


def name_card() -> str:
    """Return the GPU's name, or the CPU's with its widest vector instructions."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    width = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    cores = torch.get_num_threads()
    return f"{fields.get('model name', platform.processor())}, {width}, {cores} thread{'s' * (cores > 1)}"


def describe_machine() -> dict[str, Any]:
    """Return the card, its memory in bytes, and the versions that computed."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    packages = {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")}
    return {"card": name_card(), "memory": memory, **packages}


def peak_memory() -> int:
    """Return the most bytes that were held since `reset_peak`: by torch on the GPU, or resident on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _read_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_memory() -> int:
    """Return the bytes that are held now: by torch on the GPU, or resident on a CPU."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else _read_status("VmRSS")


def reset_peak() -> None:
    """Begin a new peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _read_status(name: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
