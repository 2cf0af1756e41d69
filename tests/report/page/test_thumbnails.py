"""Thumbnails: each image once, of whichever folder, and what is missing is named."""

import shutil

from emor3_trl.files import write_json
from emor3_trl.report.evaluated import load_evaluations
from emor3_trl.report.page import gather_content
from emor3_trl.report.page.thumbnails import make_thumbnail


def test_each_picture_is_on_the_page_once(page, sizes):
    assert len(page["pictures"]) == len(page["cases"]) == sum(sizes.values())
    assert sorted(case["picture"] for case in page["cases"]) == list(range(27))
    assert all(picture.startswith("data:image/webp;base64,") for picture in page["pictures"])
    assert page["picturesMissing"] == []


def test_pictures_of_several_folders_are_told_apart(own_run, tmp_path):
    for name in ("emotion6", "webemo"):
        (tmp_path / name).mkdir()
        shutil.move(own_run / "data" / f"{name}.parquet", tmp_path / name / "test.parquet")
    config = {"data": [str(tmp_path / "emotion6"), str(tmp_path / "webemo")], "splits": ["test"]}
    config["splits"].append(f"test={own_run}/data/test")
    for folder in (own_run / "evaluation").iterdir():
        write_json(folder / "config.yaml", config)
    page = gather_content(load_evaluations([own_run]), title="runs")
    assert page["picturesMissing"] == []
    assert len(page["pictures"]) == 27


def test_pictures_that_are_missing_or_broken_are_named(own_run, run):
    (own_run / "data" / "webemo.parquet").unlink()
    for folder in (own_run / "evaluation").iterdir():
        (folder / "config.yaml").unlink()
    page = gather_content(load_evaluations([own_run]), title="runs")
    assert page["picturesMissing"] == [
        f"The pictures of webemo are missing: there is no {own_run}/data/webemo.parquet (--data names its folder)."
    ]
    assert [case["picture"] for case in page["cases"] if case["dataset"] == 2] == [None] * 6
    assert gather_content(load_evaluations([own_run]), title="runs", data=[str(run / "data")])["picturesMissing"] == []
    assert make_thumbnail(b"no picture") is None
