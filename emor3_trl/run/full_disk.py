"""A disk that has no room left ends a recipe with one line, whichever library found it out."""

import shutil

from emor3_trl.files import find_full_disk
from emor3_trl.run.lock import list_locked_folders

NO_ROOM = 1 << 16  # bytes that are left on a full disk


def explain_full_disk(error: Exception) -> str | None:
    """Return what to tell the user of an error that comes from a full disk; None for another error.

    Args:
        error: of any library; its causes are looked at, too. W&B's process, which writes its files, ends without a
            reason, and what is told is a lost connection: so the disks of this run's folders are looked at as well.
    """
    full, folders = find_full_disk(error), list_locked_folders()
    if full is None and not any(shutil.disk_usage(folder).free < NO_ROOM for folder in folders if folder.is_dir()):
        return None
    place = (full and full.filename) or ", ".join(map(str, folders)) or "a file"
    return (
        f"There is no room on the disk for '{place}' ({full.strerror if full else error}). Free some space and run the "
        "same command again: it goes on from what is saved."
    )
