"""Several labels of one image: annotators, columns of votes, cells that list labels, copies."""

from pathlib import Path

from made_cases.basics import FOUR, KEPT, OWN, SPACE, TWELVE, Case, Command, save, save_photos, write_lines, write_table


def write_votes(out: Path) -> None:
    """Write annotators' rows, columns of votes, shares, one-hot labels and cells of several labels."""
    rows = save_photos(out, name="pictures/{number}.jpg")
    annotators, counts, hot, cells, lists, multi = [], [], [], [], [], []
    for number, (place, emotion) in enumerate(rows):
        other = FOUR[(number + 1) % 4]
        votes = [emotion] * 2 + [other] * (2 if number < 4 else 1)  # the first four are tied
        annotators += [(place, vote, f"worker{who}") for who, vote in enumerate(votes)]
        counts.append((place, *(votes.count(label) for label in FOUR), 9 if number == 11 else 0))
        hot.append((place, *(int(label == emotion) for label in FOUR)))
        cells.append((place, ", ".join(votes)))
        lists.append({"image": place, "emotion": votes})
        multi.append((place, f"{emotion}; {other}" if number < 2 else emotion))
    write_table(out / "annotators.csv", ["image", "emotion", "worker"], annotators)
    write_table(out / "counts.csv", ["image", *FOUR, "unknown"], counts)
    write_table(out / "hot.csv", ["filename", *map(str.title, FOUR)], hot)
    write_table(out / "cells.csv", ["image", "emotion"], cells)
    write_table(out / "multi.csv", ["image", "emotion"], multi, "\t")
    write_lines(out / "lists.jsonl", lists)
    # FER+: votes of ten people, images in a folder of each split, names alone in the table
    faces, parts = [], {"Training": "Train", "PrivateTest": "Test"}
    for number, (_, emotion) in enumerate(rows):
        usage, name = ("PrivateTest" if number > 7 else "Training"), f"fer{number:04d}.png"
        save(out / "ferplus" / "images" / parts[usage] / name, 600 + number, emotion)
        faces.append((usage, name, *(7 if label == emotion else 1 for label in FOUR), 0, 0))
    write_table(out / "ferplus" / "new.csv", ["Usage", "Image name", *FOUR, "unknown", "NF"], faces)


TIED = {"test": 1, "train": 7}
VOTES = Case(
    "several labels of one image",
    write_votes,
    (
        Command(
            OWN + "/annotators.csv", TIED, "12 of the 12 images .* under several emotions.*4 x is tied|is tied between"
        ),
        Command(OWN + "/counts.csv", {"test": 1, "train": 6}, "counts votes in the columns.*for no emotion"),
        Command(OWN + "/hot.csv", TWELVE, "counts votes"),
        Command(OWN + "/cells.csv" + SPACE, TIED, "name several emotions"),
        Command(OWN + "/lists.jsonl", TIED, "name several emotions"),
        Command(OWN + "/multi.csv", {"test": 2, "train": 8}, "2 rows .* name several emotions"),
        Command(OWN + "/ferplus/new.csv", None, "there is no such file.*--image_folder .*ferplus/images"),
        Command(OWN + "/ferplus/new.csv --image_folder {out}/ferplus/images", KEPT, "found by their names"),
        Command(OWN + "/counts.csv --emotion_column anger,fear,joy,sadness", TIED),
    ),
)


def write_same_file(out: Path) -> None:
    """Write a folder in which one file lies under two emotions, and copies under one."""
    for number in range(12):
        save(out / "folders" / FOUR[number % 4] / f"{number}.jpg", 5_000 + number, FOUR[number % 4])
    joy = out / "folders" / "joy"
    (out / "folders" / "fear" / "again.jpg").write_bytes((joy / "2.jpg").read_bytes())
    (joy / "copy.jpg").write_bytes((joy / "6.jpg").read_bytes())


SAME_FILE = Case(
    "one file under two emotions",
    write_same_file,
    (Command(OWN + "/folders", {"test": 2, "train": 9}, "same file under several emotions"),),
)
