"""The folder that a preparation leaves: whole or not at all, and never over somebody else's files."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emor3_trl.data.pictures import Budget
from emor3_trl.data.sources.candidates import Source
from emor3_trl.files import check_room, open_locked

MANIFEST, SHEET = "manifest.json", "contact_sheet.png"
FILES = ("test.parquet", "train.parquet", SHEET, MANIFEST)  # in the order in which they appear in the folder
UNFINISHED = "unfinished.tmp"  # the folder in which the files are made
LEFT_BEHIND = {"Thumbs.db", "desktop.ini"}  # a file manager writes these, as .DS_Store and ._…
PNG_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")  # of files whose images are stored as PNG
PHOTO_BYTES, PNG_BYTES = 0.6, 2.0  # at most, per pixel of a stored image (measured: 0.03 to 0.54, up to 1.7)


def find_prepared(output_dir: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the manifest of a folder that was prepared with the same settings, or None if it may be written to.

    Args:
        output_dir: the folder, which need not exist.
        settings: what decides the result.
        overwrite: whether the files of an earlier preparation may be replaced.

    Raises:
        FileExistsError: if the folder holds anything else.
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
        manifest = json.loads((output_dir / MANIFEST).read_text(encoding="utf-8"))
        different = [
            "the source offered other candidates"
            if key == "candidates_hash"
            else f"{key} was {manifest.get(key)!r}, now {value!r}"
            for key, value in settings.items()
            if manifest.get(key) != value
        ]
    except (ValueError, AttributeError):
        different = [f"its {MANIFEST} cannot be read"]
    if different:
        raise FileExistsError(
            f"output_dir '{output_dir}' holds data prepared otherwise: {'; '.join(different)}. "
            "Choose another --output_dir, or replace it with --overwrite."
        )
    return manifest


@contextmanager
def lock_folder(output_dir: Path) -> Iterator[None]:
    """Make the folder and keep other preparations out of it. When a process dies, the system unlocks the folder.

    Raises:
        FileExistsError: if another preparation is writing to it.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = open_locked(output_dir)
    except BlockingIOError:
        raise FileExistsError(
            f"Another preparation is writing to output_dir '{output_dir}'. Wait for it, or choose another."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def check_room_for(output_dir: Path, source: Source, sizes: dict[str, int], budget: Budget) -> None:
    """Raise if the disk cannot hold the splits.

    Args:
        output_dir: the folder to write to.
        source: the data set that the splits are drawn from.
        sizes: number of images of each split.
        budget: the size of an image.

    Raises:
        OSError: with what is needed and what is free.
    """
    needed, images = 0, 0
    for split, size in sizes.items():
        pool = source.pools.get(split, source.pools.get("all", ()))
        count = min(size, len(pool))
        png = sum(candidate.place.lower().endswith(PNG_SUFFIXES) for candidate in pool)
        images += count
        needed += round(count * budget.max_pixels * (PHOTO_BYTES + (PNG_BYTES - PHOTO_BYTES) * png / max(len(pool), 1)))
    what = f"{images:,} pictures of up to {budget.max_pixels:,} pixels (--max_pixels)"
    check_room(output_dir, needed, what)


def publish(folder: Path, output_dir: Path) -> None:
    """Move the new files into place. A manifest is in the folder only while all of its files are."""
    for name in reversed(FILES):
        (output_dir / name).unlink(missing_ok=True)
    for name in FILES:
        if (folder / name).exists():
            (folder / name).replace(output_dir / name)
    folder.rmdir()
