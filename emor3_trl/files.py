"""A file appears whole or not at all, and only where the disk has room for it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def save_json(content: Any, path: str | Path) -> None:
    """Write JSON, all or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


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
