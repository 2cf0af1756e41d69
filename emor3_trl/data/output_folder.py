"""The folder that a preparation leaves: whole or not at all, and never over somebody else's files."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emor3_trl.data.pictures import Budget
from emor3_trl.data.sources.candidates import Source
from emor3_trl.files import check_room

MANIFEST, SHEET = "manifest.json", "contact_sheet.png"
FILES = ("test.parquet", "train.parquet", SHEET, MANIFEST)  # in the order in which they appear
UNFINISHED = "unfinished.tmp"  # the folder in which they are made
LEFT_BEHIND = {"Thumbs.db", "desktop.ini"}  # by a file manager, as .DS_Store and ._…
PNG_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")  # of files whose pictures are stored as PNG
PHOTO_BYTES, PNG_BYTES = 0.6, 2.0  # per pixel of a stored picture, at most (measured: 0.03 to 0.54, up to 1.7)


def finished(output_dir: Path, asked: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the manifest of a folder that was prepared in the same way; None for one that may be written to.

    Args:
        output_dir: the folder, which need not exist.
        asked: what decides the result.
        overwrite: whether what it holds may be replaced, if a preparation wrote it.

    Raises:
        FileExistsError: if it holds anything else.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"output_dir '{output_dir}' is a file. Choose another --output_dir.")
    names = {path.name for path in output_dir.glob("*") if not path.name.startswith(".")} - LEFT_BEHIND
    strangers = names - {*FILES, UNFINISHED}
    if strangers:
        raise FileExistsError(
            f"output_dir '{output_dir}' holds other files ({', '.join(sorted(strangers)[:5])}). Choose another."
        )
    if overwrite or not names or (UNFINISHED in names and MANIFEST not in names):
        return None
    if MANIFEST not in names:
        raise FileExistsError(
            f"output_dir '{output_dir}' holds {', '.join(sorted(names))}, but no {MANIFEST}, so it was not prepared "
            "here. Choose another --output_dir, or replace it with --overwrite."
        )
    try:
        found = json.loads((output_dir / MANIFEST).read_text(encoding="utf-8"))
        different = [
            "the source offered other candidates"
            if key == "candidates_hash"
            else f"{key} was {found.get(key)!r}, now {value!r}"
            for key, value in asked.items()
            if found.get(key) != value
        ]
    except (ValueError, AttributeError):
        different = [f"its {MANIFEST} cannot be read"]
    if different:
        raise FileExistsError(
            f"output_dir '{output_dir}' holds data prepared otherwise: {'; '.join(different)}. "
            "Choose another --output_dir, or replace it with --overwrite."
        )
    return found


@contextmanager
def held(output_dir: Path) -> Iterator[None]:
    """Make the folder and keep other preparations out of it; when a process dies, the system lets go.

    Raises:
        FileExistsError: if another preparation is at work in it.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"Another preparation is writing to output_dir '{output_dir}'. Wait for it, or choose another."
            ) from None
        except OSError:  # a network drive without locks
            pass
        yield
    finally:
        os.close(descriptor)


def check_room_for(output_dir: Path, source: Source, sizes: dict[str, int], budget: Budget) -> None:
    """Raise if the disk cannot hold the splits.

    Args:
        output_dir: where they are written.
        source: what they are drawn from.
        sizes: pictures of each split.
        budget: the size of a picture.

    Raises:
        OSError: with what is needed and what there is.
    """
    needed, pictures = 0, 0
    for split, size in sizes.items():
        pool = source.pools.get(split, source.pools.get("all", ()))
        count, png = min(size, len(pool)), sum(one.place.lower().endswith(PNG_SUFFIXES) for one in pool)
        pictures += count
        needed += round(count * budget.max_pixels * (PHOTO_BYTES + (PNG_BYTES - PHOTO_BYTES) * png / max(len(pool), 1)))
    what = f"{pictures:,} pictures of up to {budget.max_pixels:,} pixels (--max_pixels)"
    check_room(output_dir, needed, what)


def publish(folder: Path, output_dir: Path) -> None:
    """Put what was made in the place of what was there; a manifest is there only while everything of its kind is."""
    for name in reversed(FILES):
        (output_dir / name).unlink(missing_ok=True)
    for name in FILES:
        if (folder / name).exists():
            (folder / name).replace(output_dir / name)
    folder.rmdir()
