"""This launch: how many processes, with sharded weights or whole ones, on which kind of device."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FSDP_LOADING = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")  # set by accelerate launch


def device_type() -> str:
    """Return what this machine computes on, as torch calls it: "cuda", "xpu" or "cpu"."""
    import torch  # takes seconds, which a command that needs no device is spared

    return "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu"


def gpu_available() -> bool:
    """Whether torch sees an accelerator that bf16 training and vLLM run on."""
    return device_type() != "cpu"


def keep_freed_memory() -> None:
    """Let the C library keep blocks that are freed, for the next tensors of their size, where torch computes on a CPU.

    Left to itself, glibc maps each block of 32 MB or more anew, and the system fills its pages with zeros. That is half
    of the time where logits or caches are so large (docs/LOG.md). A process holds what it had at its peak until it
    ends. Whoever sets one of glibc's `MALLOC_` variables decides alone. Does nothing on a GPU, or without glibc.
    """
    decided = any(name.startswith("MALLOC_") for name in os.environ)
    if decided or sys.platform != "linux" or device_type() != "cpu":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        map_threshold, trim_threshold, never = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        library.mallopt(map_threshold, never)
        library.mallopt(trim_threshold, never)


def count_devices() -> int:
    """Return the number of accelerators that this process sees."""
    import torch

    return getattr(torch, device_type()).device_count() if gpu_available() else 0


def weights_sharded() -> bool:
    """Whether this launch spreads the weights over its processes (ZeRO-3, FSDP); known once arguments are made."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1")


@contextmanager
def building_whole() -> Iterator[None]:
    """Let a model be built as it is: ZeRO-3 takes over each one that is built once a process's arguments are made."""
    from transformers.integrations import deepspeed

    settings = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = settings


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
    if not _has_python_above(os.getppid()):
        raise SystemExit("The launcher of this process was killed.")


def _has_python_above(process: int) -> bool:
    """Whether a process or one above it runs Python, as launchers do; init, which takes their orphans, does not."""
    try:
        while process > 0:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if Path(words[0].decode(errors="replace")).name.startswith("python"):
                return True
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # one that may not be looked at
        return True
    return False


def check_precision(bf16: bool, fp16: bool) -> None:
    """Check that Accelerate computes in the type that the configuration says, which vLLM takes too.

    Args:
        bf16, fp16: the trainer's switches.

    Raises:
        ValueError: if the launch has mixed precision and the configuration has not: rollouts would be off-policy.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # set by accelerate launch
    if precision in ("bf16", "fp16") and not {"bf16": bf16, "fp16": fp16}[precision]:
        raise ValueError(
            f"{precision} is false, but Accelerate's file says mixed_precision: {precision}, which the trainer would "
            f"compute in and vLLM not. Add --mixed_precision no to accelerate launch, or set {precision}: true."
        )


def check_shared_folder(folder: object, checkpoint: str | None) -> None:
    """Check that every process sees the same checkpoint in a folder, and wait until all have looked.

    Args:
        folder: the run's folder, for the message.
        checkpoint: where this process would go on, None from the start.

    Raises:
        ValueError: if the processes see different ones: some would resume, others start, and all wait forever.
    """
    from accelerate.utils import gather_object

    seen = gather_object([checkpoint])
    other = next((rank for rank, value in enumerate(seen) if value != seen[0]), None)
    if other is not None:
        raise ValueError(
            f"output_dir '{folder}' is not the same for all processes: process 0 goes on from "
            f"{seen[0] or 'the start'}, process {other} from {seen[other] or 'the start'}. Choose an --output_dir on a "
            "file system that all nodes share."
        )


def quiet_deepspeed() -> None:
    """Tell DeepSpeed what it would find out on a machine without a GPU; it prints a line that it found none.

    Accelerate imports it, where it is installed, as soon as a model is unwrapped.
    """
    if not gpu_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
