"""A file appears whole or not at all, and only where the disk has room for it; a damaged one is named."""

import errno
import fcntl
import glob
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

# What a full disk is called by the system, and by torch's and safetensors' writers, whose errors have no number
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_TEXTS = (*map(os.strerror, sorted(FULL)), "PytorchStreamWriter failed writing")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; what stands there takes the place of `path` at the end of the block.

    A reader finds the old file or the whole new one, also after a crash. An error in the block leaves the old one. What
    a killed process left of an earlier attempt is removed.

    Args:
        path: the file to write; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for remains in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _is_alive(remains.name.split(".")[-2]):
            remains.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())  # else a crash can leave the new name with nothing in it
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_alive(process: str) -> bool:
    """Return whether there is a process of that number; what is no number counts as alive."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError, OverflowError):  # another user's
        return True
    return True


def empty_folder(folder: Path) -> None:
    """Remove all that a folder holds; the folder itself stays, because a lock may be on it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name a file or a folder in the error of a full disk in the block: most libraries do not."""
    try:
        yield
    except Exception as error:
        full = find_full_disk(error)
        if full is None:
            raise
        raise OSError(full.errno, full.strerror, str(path)) from error


def find_full_disk(error: BaseException | None) -> OSError | None:
    """Return the full disk that an error, or one of its causes, tells of; None if they tell of something else.

    Returns:
        An error of the system, with the file's name where one of them has it.
    """
    names, full = [], None
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(text in str(error) for text in FULL_TEXTS):
            full = number if number in FULL else full or errno.ENOSPC
            names += [getattr(error, "filename2", None) or getattr(error, "filename", None)]  # of a copy, the new one
        error = error.__cause__ or error.__context__
    return OSError(full, os.strerror(full), next(filter(None, names), None)) if full else None


def read_mapping(path: str | Path, cure: str) -> dict[str, Any]:
    """Read a JSON or YAML file that holds keys with values.

    Args:
        path: the file, which exists; its suffix tells the format.
        cure: what to do about a damaged file, for the message.

    Raises:
        ValueError: naming the file, if it cannot be read or holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(content, dict):
            raise ValueError("expected keys with values")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault = "is no JSON" if path.suffix == ".json" else "cannot be read"
        raise ValueError(f"'{path}' {fault} ({error}). {cure}") from error
    return content


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, all or nothing."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def open_locked(folder: Path) -> int:
    """Lock a folder against other processes until the descriptor that is returned is closed, or this process dies.

    Args:
        folder: the folder, which exists. On a network drive without locks nothing is locked, which is said.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network drive that has no locks, or none for folders
        warnings.warn(
            f"'{folder}' is on a drive that locks no folders: a second run into it would not be refused, from this "
            "machine or another. Start one at a time.",
            stacklevel=2,
        )
    return descriptor


def check_room(folder: str | Path, needed: int, what: str) -> None:
    """Make sure that a disk has room for what is about to be written.

    Args:
        folder: where it will be written; it need not exist yet.
        needed: bytes.
        what: what needs them, for the message.

    Raises:
        OSError: with what is needed and what is free.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"The disk of '{folder}' has {_format_size(free)} free, but {what} can take {_format_size(needed)}. "
            "Free some space, or write to another disk."
        )


def _format_size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
