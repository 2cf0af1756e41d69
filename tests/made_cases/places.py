"""Images that lie elsewhere: behind links, in other folders, under other names."""

import os
from pathlib import Path

from emor3_trl.data.sources.webemo import GROUPS
from made_cases.basics import FOUR, OWN, TWELVE, Case, Command, encode, save, save_photos, write_table


def write_links(out: Path) -> None:
    """Write a folder of the Hub's cache, and a folder of links to a shared disk."""
    repository = out / "hub" / "datasets--a--b"
    for split, count in (("train", 2), ("test", 1)):
        for place, emotion in enumerate(FOUR):
            folder = repository / "snapshots" / "1a2b" / split / emotion
            folder.mkdir(parents=True)
            (repository / "blobs").mkdir(exist_ok=True)
            for number in range(count):
                blob = repository / "blobs" / f"{split}{emotion}{number}"
                blob.write_bytes(encode(10 * place + number + (500 if split == "test" else 0), emotion))
                (folder / f"{number}.jpg").symlink_to(os.path.relpath(blob, folder))
    for place, emotion in enumerate(FOUR):
        for number in range(3):
            save(out / "disk" / emotion / f"{number}.jpg", 700 + 10 * place + number, emotion)
        (out / "linked").mkdir(exist_ok=True)
        (out / "linked" / emotion).symlink_to(out / "disk" / emotion)
    (out / "files").mkdir()
    write_table(out / "files" / "t.csv", ["image", "emotion"], [(f"{n}.jpg", FOUR[n % 4]) for n in range(12)])
    for number in range(12):
        target = out / "disk" / FOUR[number % 4] / f"{number // 4}.jpg"
        (out / "files" / f"{number}.jpg").symlink_to(target)


LINKS = Case(
    "symbolic links",
    write_links,
    (
        Command(OWN + "/hub/datasets--a--b/snapshots/1a2b", {"test": 4, "train": 8}),
        Command(OWN + "/linked", None, "4 symbolic links .* lead out of it .*--image_folder .*disk"),
        Command(OWN + "/linked --image_folder {out}/disk", TWELVE),
        Command(OWN + "/files/t.csv", None, "a symbolic link leads out of the folder.*--image_folder"),
        Command(OWN + "/files/t.csv --image_folder {out}/disk", TWELVE),
    ),
)


def write_elsewhere(out: Path) -> None:
    """Write tables whose images lie on another disk, below another folder, or on another machine."""
    disk = out / "disk" / "images"
    rows = save_photos(disk, name="{emotion}/{number}.jpg")
    tables = {
        "absolute": [str(disk / place) for place, _ in rows],
        "relative": [place for place, _ in rows],
        "upwards": [f"../disk/images/{place}" for place, _ in rows],
        "windows": ["D:\\data\\images\\" + place.replace("/", "\\") for place, _ in rows],
        "home": [f"/home/someone/images/{place}" for place, _ in rows],
        "names": [place.split("/")[1] for place, _ in rows],
        "suffix": [place.removesuffix(".jpg") for place, _ in rows],
        "project": [f"project/pictures/{place}" for place, _ in rows],
    }
    for name, places in tables.items():
        table = [(place, emotion) for place, (_, emotion) in zip(places, rows, strict=True)]
        write_table(out / "project" / f"{name}.csv", ["image", "emotion"], table)
    for number, (place, emotion) in enumerate(rows):
        save(out / "project" / "pictures" / place, number, emotion)


FOLDER = " --image_folder {out}/disk/images"
ELSEWHERE = Case(
    "images in another folder",
    write_elsewhere,
    (
        Command(OWN + "/project/absolute.csv", None, "nothing outside is opened.*--image_folder .*disk/images"),
        Command(OWN + "/project/relative.csv", None, "there is no such file.*--image_folder"),
        Command(OWN + "/project/upwards.csv", None, "leads out of the folder.*--image_folder .*disk/images"),
        *(
            Command(OWN + f"/project/{name}.csv" + FOLDER, TWELVE)
            for name in ("absolute", "relative", "upwards", "windows", "home", "names", "suffix")
        ),
        Command(OWN + "/project/suffix.csv", None, "has a suffix that the path lacks.*--image_folder"),
        Command(OWN + "/project/project.csv", TWELVE, "paths begin with 'project', which is left out"),
        Command(OWN + "/project/relative.csv --image_folder {out}/nowhere", None, "which is no folder"),
    ),
)


def write_webemo_layouts(out: Path) -> None:
    """Write WebEmo as download scripts leave it: in folders of labels, or with the label before the name."""
    names = sorted(name for group in GROUPS.values() for name in group)
    group_of = {name: group for group, members in GROUPS.items() for name in members}
    places = {
        "folders": "{split}/{label}/{name}",
        "prefixed": "images/{split}/{label}_{name}",
        "shared": "pictures/{label}/{name}",
    }
    for layout, place in places.items():
        root = out / layout
        root.mkdir()
        lines = [f"({name!r}, {group_of[name]!r}, '+')\n" for name in names]
        (root / "category.txt").write_text("".join(lines))
        for split in ("train", "test"):
            listed = []
            for label in range(25):
                for number in range(2):
                    unique = f"p_{split}_{label}_{number}.jpg"
                    name = unique if layout != "shared" else f"same_{split}_{number}.jpg"
                    listed.append(f"https://img.example.org/{label}/{number}/{name} {label}")
                    seed = 25 * (2 * number + (split == "test")) + label
                    save(root / place.format(split=split, label=label, name=name), seed, group_of[names[label]])
            (root / f"{split}25.txt").write_text("\n".join(listed) + "\n")


LAYOUTS = ("folders", "prefixed", "shared")
WEBEMO_SET = "--dataset webemo --train 35 --test 14 --source {out}"
GROUPS_7 = tuple(sorted(GROUPS))
WEBEMO = Case(
    "WebEmo as scripts fetch it",
    write_webemo_layouts,
    (
        *(Command(WEBEMO_SET + "/" + layout, {"test": 14, "train": 35}, "", GROUPS_7) for layout in LAYOUTS),
        Command(WEBEMO_SET, None, "Did you mean --source .*folders"),
    ),
)
