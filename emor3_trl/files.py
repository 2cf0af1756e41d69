"""A file appears whole or not at all, and only where the disk has room for it."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; what stands there takes the place of `path` at the end of the block.

    A reader finds the old file or the whole new one, also after a crash. An error in the block leaves the old one.

    Args:
        path: the file to write; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # else a crash can leave the new name with nothing in it
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        folder: the folder, which exists. On a network drive without locks nothing is locked.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network drive that has no locks
        pass
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
            f"The disk of '{folder}' has {free / 1e9:,.1f} GB free, but {what} can take {needed / 1e9:,.1f} GB. "
            "Free some space, or write to another disk."
        )
