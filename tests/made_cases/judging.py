"""Whether what became of a command is right."""

import json
import re
from pathlib import Path

from emor3_trl.data import load_split
from made_cases.basics import LEVELS, Command, read_emotion

SMALL = ("--min_pixels", "784", "--max_pixels", "10000")  # enough to see what is taken
MAX_REFUSAL = 700  # characters, paths and hint included


def judge(command: Command, output_dir: Path, said: str, error: str | None) -> str:
    """Return "right", or what is wrong.

    Args:
        command: what was typed.
        output_dir: where it was to write.
        said: what it printed.
        error: the line with which it was refused, or None.
    """
    manifest = output_dir / "manifest.json"
    if (command.taken is None) != (error is not None):
        return "refused, though the data are there" if error is not None else "took what is not right"
    words = " ".join(f"{said} {error or ''}".split())
    if error is not None and (len(error) > MAX_REFUSAL or "\n" in error.strip() or manifest.exists()):
        return f"refused with {len(error):,} characters"
    if command.taken is not None:
        counts = json.loads(manifest.read_text(encoding="utf-8"))["counts"]
        taken = {split: sum(labels.values()) for split, labels in counts.items()}
        if taken != dict(command.taken):
            return f"took {taken}, not {dict(command.taken)}"
        emotions = {label for labels in counts.values() for label in labels}
        if not set(command.emotions) <= emotions:
            return f"took the emotions {sorted(emotions)}"
        wrong = find_wrong_emotions(output_dir, command)
        if wrong:
            return f"took wrong emotions, as of {wrong[0]}"
    return "right" if re.search(command.says, words) else "said something else"


def find_wrong_emotions(output_dir: Path, command: Command) -> list[str]:
    """Return the images that are of another emotion, as their brightness or their name tells."""
    rows = [row for split in command.taken or () for row in load_split(output_dir, split)]
    if command.check == "name":
        return [row["id"] for row in rows if row["emotion"] not in row["id"].lower()]
    toned = [row for row in rows if row["emotion"] in LEVELS and command.check == "brightness"]
    return [row["id"] for row in toned if read_emotion(row["image"]) != row["emotion"]]
