"""A checkpoint's torch files hold tensors and plain values: nothing in one is run, whoever wrote it.

A pickle can run code when it is read. `Trainer` and this package read torch files with `weights_only`; DeepSpeed, and
PyTorch's sharded checkpoints of FSDP, do not. So a checkpoint is looked at before a run goes on from it, and is read
with torch's own rule in force for whatever reads it.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

UNREAD = "training_args.bin"  # `Trainer` writes it, and nothing reads it
SHARDED = ".metadata"  # of PyTorch's sharded checkpoints: a pickle without torch's archive around it
FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# What torch files of a run name besides tensors, by the library that writes them; none does more than hold values
NUMPY = {"numpy.dtype", "numpy.ndarray", "numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"}
DEEPSPEED = {
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
}
METADATA = {
    *(f"torch.distributed.checkpoint.metadata.{name}" for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    "torch.distributed.checkpoint.filesystem._StorageInfo", "torch.serialization._get_layout", "torch.Size",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath",
}  # fmt: skip


class UntrustedFileError(ValueError):
    """A file of a checkpoint that would run code when it is read."""


def check_no_code(checkpoint: str | Path) -> None:
    """Make sure that no file of a checkpoint names code, and that none lies elsewhere.

    Args:
        checkpoint: the folder.

    Raises:
        UntrustedFileError: naming the file and the code, or the link.
    """
    for file in sorted(Path(checkpoint).rglob("*")):
        if file.is_symlink():
            raise UntrustedFileError(
                f"'{file}' is a link, and a run writes none into a checkpoint, so it is not read. Copy the checkpoint "
                "with 'cp -rL', which makes files of links, or start again with --overwrite."
            )
        code = find_code(file) if file.is_file() else None
        if code:
            raise UntrustedFileError(
                f"'{file}' would run {code} when it is read, so it is not read: a run writes no such file. Go on from "
                "a checkpoint that you trust, or start again with --overwrite."
            )


def find_code(file: Path) -> str | None:
    """Return the code that a torch file names, without reading its values; None where it names none that counts."""
    if file.name.endswith(SHARDED):
        return _find_metadata_code(file)
    if file.suffix not in (".pt", ".pth", ".bin") or file.name == UNREAD:
        return None
    try:
        names = set(get_unsafe_globals_in_checkpoint(file)) - NUMPY - DEEPSPEED
    except Exception as error:  # a crafted pickle can fail in any way
        return f"code that cannot be listed ({' '.join(str(error).split())[:80]})"
    return min(names, default=None)


@contextmanager
def only_tensors() -> Iterator[None]:
    """Let `torch.load` read nothing but tensors and plain values, whatever its caller asks for.

    Raises:
        UntrustedFileError: if a file holds something else.
    """
    variables = {name: os.environ.pop(name, None) for name in (FORCE, FORCE_NOT)}
    os.environ[FORCE] = "1"
    try:
        with safe_globals(_list_deepspeed_classes()) if "deepspeed" in sys.modules else nullcontext():
            yield
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:150]
        raise UntrustedFileError(
            f"A file of the checkpoint holds more than tensors and values, so it is not read ({reason}). Go on from a "
            "checkpoint that you trust, or start again with --overwrite."
        ) from error
    finally:
        del os.environ[FORCE]
        os.environ.update({name: value for name, value in variables.items() if value is not None})


def _list_deepspeed_classes() -> list[Any]:
    names = [name.rpartition(".") for name in sorted(DEEPSPEED)]
    return [getattr(__import__(module, fromlist=[name]), name) for module, _, name in names]


class _MetadataReader(pickle.Unpickler):
    """Finds the classes of a sharded checkpoint's table of contents, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the table of contents may hold."""
        value = getattr(torch, name, None) if module == "torch" else None
        if isinstance(value, torch.dtype) or f"{module}.{name}" in METADATA:
            return super().find_class(module, name)
        raise UntrustedFileError(f"{module}.{name}")


def _find_metadata_code(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            _MetadataReader(stream).load()
    except UntrustedFileError as error:
        return str(error)
    except Exception as error:  # a crafted pickle can fail in any way
        return f"code that cannot be listed ({' '.join(str(error).split())[:80]})"
    return None
