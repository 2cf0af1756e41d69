"""One run writes to a folder at a time: another one is told of it before it loads anything."""

import os
import time
from pathlib import Path

from emor3_trl.files import open_locked

ATTEMPTS, PAUSE = 5, 0.1  # another run may only be looking, which takes it a moment

# Folders that this process has locked, with their descriptors: a notebook's cell that runs again shares its own lock
_held: dict[Path, int] = {}


def lock_folder(folder: Path) -> None:
    """Keep other processes out of a folder until `unlock_folder`; when this process dies, the system unlocks it.

    Args:
        folder: the folder, which exists. On a network drive without locks nothing is locked.

    Raises:
        FileExistsError: if another process has locked it.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    for attempt in range(ATTEMPTS):
        try:
            _held[folder] = open_locked(folder)
            return
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
    raise FileExistsError(
        f"Another run is writing to output_dir '{folder}'. Wait for it or stop it, or choose another --output_dir."
    )


def unlock_folder(folder: Path) -> None:
    """Let other processes write to a folder again; a folder that is not locked is left alone."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def list_locked_folders() -> list[Path]:
    """Return the folders that this process has locked, which are those that its run writes to."""
    return list(_held)


def check_unlocked(folder: Path) -> None:
    """Check that no other process has locked a folder.

    Raises:
        FileExistsError: if one has.
    """
    if folder.resolve() not in _held:
        lock_folder(folder)
        unlock_folder(folder)


def _forget_locks() -> None:
    """Close what a forked child inherited: a worker that outlives its run must not keep the folder locked."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)
