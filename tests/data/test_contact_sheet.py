"""The contact sheet shows each split and emotion, and stays an image of reasonable size."""

from pathlib import Path

import numpy as np
from downloads import save
from PIL import Image

from emor3_trl.data.contact_sheet import ContactSheet
from emor3_trl.data.pictures import Budget
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Sampling
from emor3_trl.data.sources import own

SMALL = Budget(min_pixels=784, max_pixels=28 * 28 * 12)


def draw(source, folder: Path, train: int = 8, test: int = 8, **options):
    return prepare(source, folder, Sampling(train, test, **options), SMALL, progress=False)


def test_the_contact_sheet_has_a_row_for_each_split_and_emotion(tmp_path):
    sheet = ContactSheet(["joy", "a very long name of an emotion"])
    for colour, label, count in (("red", "joy", 3), ("blue", "a very long name of an emotion", 12)):
        for _ in range(count):
            sheet.add("test", label, Image.new("RGB", (300, 200), colour))
    sheet.save(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    red, blue = ((pixels == colour).all(axis=2) for colour in ((255, 0, 0), (0, 0, 255)))
    assert red.sum() == 3 * 112 * 75
    assert blue.sum() == 10 * 112 * 75  # no more than fit a row
    assert np.argwhere(red)[:, 0].max() < np.argwhere(blue)[:, 0].min()


def test_a_contact_sheet_of_very_many_labels_stays_a_picture(tmp_path):
    root = tmp_path / "in"
    for number in range(120):
        save(root / f"label{number:03d}" / "0.jpg", number)
    labels = ", ".join(path.name for path in sorted(root.iterdir()))
    (tmp_path / "space.yaml").write_text(f"labels: [{labels}]\n")
    draw(own.list_candidates(root, tmp_path / "space.yaml"), tmp_path / "out", train=120, test=0)
    assert Image.open(tmp_path / "out" / "contact_sheet.png").height < 5000
