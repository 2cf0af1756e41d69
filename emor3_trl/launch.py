"""This launch: how many processes, with sharded weights or whole ones, on which kind of device."""

import ctypes
import os
import signal
import sys
from pathlib import Path

FSDP_LOADING = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")  # set by accelerate launch


def device_type() -> str:
    """Return what this machine computes on, as torch calls it: "cuda", "xpu" or "cpu"."""
    import torch  # takes seconds, which a command that needs no device is spared

    return "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu"


def gpu_available() -> bool:
    """Whether torch sees an accelerator that bf16 training and vLLM run on."""
    return device_type() != "cpu"


def count_devices() -> int:
    """Return the number of accelerators that this process sees."""
    import torch

    return getattr(torch, device_type()).device_count() if gpu_available() else 0


def weights_sharded() -> bool:
    """Whether this launch spreads the weights over its processes (ZeRO-3, FSDP); known once arguments are made."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")


def check_reference(beta: float, lora: bool) -> None:
    """Check that each process loads the reference model: TRL shards the weights that the process itself has.

    Args:
        beta: weight of the KL term; 0 needs no reference model.
        lora: whether an adapter is trained; the reference model is then the policy without it.

    Raises:
        ValueError: if FSDP lets the main process alone load weights. The others would compare with an empty model.
    """
    switches = [os.environ.get(key, "").lower() in ("true", "1") for key in FSDP_LOADING]
    if beta and not lora and all(switches) and world_size() > 1:
        raise ValueError(
            f"fsdp_cpu_ram_efficient_loading is true and beta is {beta}: the reference model would be empty on every "
            "process but the first, and the KL term wrong. Set it to false in Accelerate's file, as "
            "recipes/accelerate/fsdp2.yaml does, or set beta: 0."
        )


def world_size() -> int:
    """Return the number of processes of this launch (torchrun and accelerate set it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints for the launch."""
    return os.environ.get("RANK", "0") == "0"


def end_with_launcher() -> None:
    """Let the system kill this process when its launcher is killed; a launcher starts it in a session of its own.

    Without it, processes of a launch that was killed train on, and keep the run's folder locked. Linux only.

    Raises:
        SystemExit: if the launcher is gone already.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or sys.platform != "linux":
        return
    end_with_parent = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
    try:
        program = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:  # it may not be looked at
        return
    if not Path(program).name.startswith("python"):  # who takes the launcher's orphans, such as init
        raise SystemExit("The launcher of this process was killed.")
