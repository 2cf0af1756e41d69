"""Labels that are no emotions: numbers, holidays, files, and folders of another level."""

from pathlib import Path

from made_cases.basics import FOUR, MAPPED, OWN, SPACE, TWELVE, Case, Command, save, save_photos, write_table


def write_numbers(out: Path) -> None:
    """Write labels that are numbers: folders, cells, floats, names of classes."""
    rows = save_photos(out, name="pictures/{number}.jpg")
    for number, (place, emotion) in enumerate(rows):
        index = FOUR.index(emotion)
        for root, name in (
            ("folders", str(index)),
            ("classes", f"class_{index}"),
            ("ordered", f"{index}_{emotion.title()}"),
        ):
            save(out / root / name / f"{number}.jpg", 2_000 + number, emotion)
        part = "test" if number > 7 else "train"
        save(out / "upper" / "DATA" / part / str(index) / f"{number}.jpg", 2_500 + number, emotion)
        assert place.endswith(f"{number}.jpg")
    for name, write in (("cells", str), ("floats", float)):
        write_table(out / f"{name}.csv", ["image", "label"], [(place, write(FOUR.index(e))) for place, e in rows])
    both = [(place, FOUR.index(emotion), emotion) for place, emotion in rows]
    write_table(out / "both.csv", ["image", "label", "label_name"], both)
    (out / "list.txt").write_text("".join(f"{place} {FOUR.index(emotion)}\n" for place, emotion in rows))
    mapping = ", ".join(f"{index}: {emotion}" for index, emotion in enumerate(FOUR))
    words = ", ".join(f"class_{index}: {emotion}" for index, emotion in enumerate(FOUR))
    (out / "space.yaml").write_text(f"name: four\nlabels: [{', '.join(FOUR)}]\nmap: {{{mapping}, {words}}}\n")


NUMBERS = Case(
    "numbers for labels",
    write_numbers,
    (
        Command(OWN + "/folders", None, "are numbers: '0' 3.*--label_space"),
        Command(OWN + "/classes", None, "are numbers: 'class_0' 3.*--label_space"),
        Command(OWN + "/cells.csv", None, "are numbers: '0' 3.*map"),
        Command(OWN + "/floats.csv", None, "are numbers: '0' 3.*map"),
        *(Command(OWN + f"/{place}" + MAPPED, TWELVE) for place in ("folders", "classes", "cells.csv", "floats.csv")),
        Command(OWN + "/cells.csv" + SPACE, None, "outside the label space 'emotion6'.*A number does not say"),
        Command(OWN + "/ordered", TWELVE, "'0_Anger' is read as 'anger'"),
        Command(OWN + "/ordered" + SPACE, TWELVE),
        Command(OWN + "/both.csv", TWELVE, "the emotion from 'label_name'"),
        Command(OWN + "/upper", None, "Did you mean --source .*upper/DATA"),
        Command(OWN + "/list.txt", None, "Expected a folder, or a .csv.*header image,emotion"),
    ),
)


def write_no_emotions(out: Path) -> None:
    """Write labels that are holidays, files, sentences, people, nothing."""
    rows = save_photos(out / "holidays", name="2024 summer/{number}.jpg") + save_photos(
        out / "holidays", 12, 1, "2025 winter/{number}.jpg"
    )
    write_table(out / "holidays" / "labels.csv", ["image", "emotion"], rows)
    for number, who in enumerate(("alice", "bob", "carol")):
        save_photos(out / "people", 4, 2 + number, who + "/{number}.jpg")
    save_photos(out / "flat", 6, 6, "{emotion}_{number}.jpg")
    places = [place for place, _ in save_photos(out, 12, 7, "pictures/{number}.jpg")]
    columns = {
        "files": [f"{number}.jpg" for number in range(12)],
        "sentences": [f"a picture of {number} dogs that run in the sun" for number in range(12)],
        "nan": [*FOUR, *FOUR, "nan", "None", "", "NaN"],
        "numbered": [f"joy {number}" for number in range(12)],
        "one": ["joy"] * 12,
        "links": ["joy", "fear"] * 6,
    }
    for name, labels in columns.items():
        table = list(zip(places, labels, strict=True))
        if name == "links":
            table = [(f"https://example.org/{place}", label) for place, label in table]
        write_table(out / f"{name}.csv", ["image", "emotion"], table)
    (out / "people.yaml").write_text("labels: [alice, bob, carol]\n")


NO_EMOTIONS = Case(
    "labels that are no emotions",
    write_no_emotions,
    (
        Command(
            OWN + "/holidays", None, "do not look like emotions: '2024 summer' 12.*'labels.csv'.*--source .*labels.csv"
        ),
        Command(OWN + "/holidays/labels.csv", {"test": 4, "train": 20}),
        Command(OWN + "/people", None, "do not look like emotions.*labels: .alice, bob, carol"),
        Command(OWN + "/people --label_space {out}/people.yaml", TWELVE, "", ("alice", "bob", "carol")),
        Command(OWN + "/flat", None, "6 images .* lie in no folder of an emotion.*names of 6 begin like emotions.*CSV"),
        Command(OWN + "/files.csv", None, "are files: '0.jpg'"),
        Command(OWN + "/sentences.csv", None, "are sentences"),
        Command(OWN + "/numbered.csv", None, "differ in their numbers only"),
        Command(OWN + "/one.csv", None, "have one label, 'joy'"),
        Command(OWN + "/nan.csv", {"test": 1, "train": 7}, "has no emotion .'nan'"),
        Command(OWN + "/links.csv", None, "nothing is downloaded"),
    ),
)


def write_levels(out: Path) -> None:
    """Write folders a level too high or too low, beside folders of the same names."""
    for number in range(12):
        emotion = FOUR[number % 4]
        save(out / "high" / "images" / emotion / f"{number}.jpg", 3_000 + number, emotion)
        save(out / "high" / "ground_truth" / emotion / f"{number}.jpg", 3_100 + number, emotion)
        save(
            out / "things" / emotion / ("cake", "dog in the rain")[number % 2] / f"{number}.jpg",
            3_200 + number,
            emotion,
        )
        save(out / "inner" / emotion / ("test" if number > 7 else "train") / f"{number}.jpg", 3_300 + number, emotion)
    (out / "high" / "split_lists").mkdir()


LEVELS = Case(
    "another level of folders",
    write_levels,
    (
        Command(OWN + "/high", None, "Did you mean --source .*high/images .*ground_truth.*'split_lists' may hold"),
        Command(OWN + "/high/images", TWELVE),
        Command(OWN + "/things/joy", None, "Did you mean --source .*things "),
        Command(OWN + "/things", TWELVE),
        Command(OWN + "/inner", {"test": 4, "train": 8}, "kept to as splits"),
    ),
)
