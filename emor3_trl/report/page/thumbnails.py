"""Thumbnails of the images of the cases, as data URIs: each image once, whatever the number of models."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from PIL import Image

from emor3_trl.report.evaluated import Evaluation
from emor3_trl.report.pictures import read_images

SIZE = 112  # pixels of the longer side
QUALITY = 60


def make_thumbnails(
    evaluations: Sequence[Evaluation],
    datasets: Sequence[str],
    cases: Sequence[dict[str, Any]],
    data: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Find the images of the cases, and set `picture` of each case to the index of its thumbnail.

    Args:
        evaluations: the models; the first whose images of a data set are there gives them.
        datasets: names of the data sets.
        cases: see `make_cases`; a case whose image is not found keeps None.
        data: folders of prepared data to look in.

    Returns:
        The thumbnails, and one sentence per data set whose images are missing.
    """
    thumbnails: list[str] = []
    missing: list[str] = []
    for index, name in enumerate(datasets):
        cases_by_id = {case["id"]: case for case in cases if case["dataset"] == index}
        files = [row.find_image_file(name, data) for row in evaluations if name in row.predictions]
        file = next((file for file in files if file.is_file()), files[0])
        shown = len(thumbnails)
        with ThreadPoolExecutor() as pool:
            images = read_images(file, cases_by_id)
            while batch := list(islice(images, 256)):  # all at once would hold every image in memory
                uris = pool.map(make_thumbnail, [content for _, content in batch])
                for (image_id, _), uri in zip(batch, uris, strict=True):
                    if uri is not None:
                        cases_by_id[image_id]["picture"] = len(thumbnails)
                        thumbnails.append(uri)
        unread = len(cases_by_id) - (len(thumbnails) - shown)
        if not file.is_file():
            missing.append(f"The pictures of {name} are missing: there is no {file} (--data names its folder).")
        elif unread:
            missing.append(f"{unread} of {len(cases_by_id)} pictures of {name} are not readable in {file}.")
    return thumbnails, missing


def make_thumbnail(content: bytes) -> str | None:
    """Return a small WebP of an image file as a data URI, or None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.thumbnail((SIZE, SIZE))
            small = io.BytesIO()
            image.convert("RGB").save(small, format="WEBP", quality=QUALITY, method=4)
    except Exception:  # Pillow's plug-ins raise almost anything for a broken file
        return None
    return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"
