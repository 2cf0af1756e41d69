"""Draw train and test from a downloaded data set, as the paper does (Sec. 4.1), and write them ready to use.

What is drawn depends on the source and the arguments alone: candidates are shuffled with a seed and processed in that
order, on all cores. One that cannot be used, or is a picture that was taken already, gives its place to the next
of its label, and goes into the manifest with the reason. Test is drawn first, so it stays the same whatever is trained
on. Only pictures that are drawn are opened, and a few at a time are held in memory.
"""

import json
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
from tqdm.auto import tqdm

from emor3_trl.data import SplitWriter
from emor3_trl.data.contact_sheet import ContactSheet
from emor3_trl.data.duplicates import Taken
from emor3_trl.data.output_folder import MANIFEST, SHEET, UNFINISHED, check_room_for, finished, held, publish
from emor3_trl.data.pictures import Budget, Picture, take
from emor3_trl.data.sampling import Draw, Sampling, split_sizes
from emor3_trl.data.sources.candidates import Candidate, Dropped, Pictures, Source, Unusable


def prepare(
    source: Source,
    output_dir: str | Path,
    sampling: Sampling,
    budget: Budget | None = None,
    arguments: dict[str, Any] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw and write `train.parquet` and `test.parquet`, `manifest.json` and `contact_sheet.png`.

    The manifest comes last: a folder that has one is complete. Stopped at any moment and started again, the result is
    the same. What is replaced stays until all is drawn, and no split of it ever stands beside a new one.

    Args:
        source: what the data set offers.
        output_dir: folder to write to.
        sampling: how much, and how.
        budget: the size of stored pictures.
        arguments: what else the user set; it is recorded, and compared when the folder holds a manifest.
        workers: threads; all cores by default. (Pillow lets go of the interpreter lock.)
        overwrite: replace what the folder holds.
        progress: show a bar.

    Returns:
        The manifest.

    Raises:
        FileExistsError: if the folder holds other data, or another preparation is writing to it.
        ValueError: if a split has no candidates, or no picture of them can be used.
        OSError: if the disk has no room.
    """
    output_dir, budget = Path(output_dir), budget or Budget()
    asked = {"source": source.name, **(arguments or {}), **asdict(sampling), **asdict(budget)}
    asked["label_space"] = {"name": source.label_space.name, "labels": list(source.label_space.labels)}
    asked["candidates_hash"] = source.candidates_hash()
    prepared = finished(output_dir, asked, overwrite)
    sizes = split_sizes(source, sampling)
    if prepared is None:
        check_room_for(output_dir, source, sizes, budget)
    folder = output_dir / UNFINISHED
    with held(output_dir):
        prepared = finished(output_dir, asked, overwrite)  # another preparation may have ended meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        if prepared is not None:
            print(f"{output_dir}: already prepared with these arguments, nothing to do (--overwrite prepares it again)")
            return prepared
        folder.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # of a picture that is odd, and still taken or dropped
                results = _draw(source, sizes, sampling, budget, folder, workers or _cores(), progress)
            manifest = {
                **asked,
                "candidates": {name: len(pool) for name, pool in source.pools.items()},
                "wanted": sizes,
                **results,
                "pillow": PIL.__version__,
            }
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            (folder / MANIFEST).write_text(_storable(text), encoding="utf-8")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        publish(folder, output_dir)
    return manifest


def _draw(
    source: Source,
    sizes: dict[str, int],
    sampling: Sampling,
    budget: Budget,
    folder: Path,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """Write the splits and the contact sheet; return what was taken and dropped."""
    labels = source.label_space.labels
    counts: dict[str, dict[str, int]] = {}
    chosen: dict[str, dict[str, str]] = {}
    hashes: dict[str, str] = {}
    dropped = {"source": list(source.dropped)}
    taken, sheet, used = Taken(), ContactSheet(labels), set[str]()
    with ThreadPoolExecutor(workers) as pool:
        for split in (name for name in ("test", "train") if sizes[name]):
            candidates = [one for one in source.pools.get(split, source.pools.get("all", ())) if one.id not in used]
            draw = Draw(candidates, sizes[split], sampling)
            counted, chosen[split], dropped[split] = Counter[str](), {}, []
            taken.begin(split)
            bar = tqdm(total=sizes[split], desc=f"{source.name} {split}", unit="picture", disable=not progress)
            with SplitWriter(folder, split) as writer, bar:
                for candidate, future in _process(draw, source.pictures, budget, pool, ahead=4 * workers):
                    used.add(candidate.id)
                    try:
                        picture = future.result()
                        taken.add(picture.content, picture.look)
                    except Unusable as reason:
                        dropped[split].append(Dropped(candidate.id, str(reason)))
                        continue
                    draw.accept(candidate)
                    counted[candidate.emotion] += 1
                    chosen[split][candidate.id] = picture.content.hex()
                    sheet.add(split, candidate.emotion, picture.thumbnail)
                    row = {"id": _storable(candidate.id), "image": picture.data, "emotion": candidate.emotion}
                    writer.add({**row, "label_space": labels, "source": source.name})
                    bar.update()
                if not counted:
                    reasons = Counter(item.reason for item in dropped[split]).most_common(3)
                    raise ValueError(
                        f"No picture of {source.name} {split} could be used: "
                        + "; ".join(f"{count} x {reason}" for reason, count in reasons)
                        + f". One is '{candidates[0].place}'. Check --source."
                    )
            hashes[split] = writer.content_hash()
            counts[split] = {label: counted[label] for label in labels}
    sheet.save(folder / SHEET)
    everything = {split: [asdict(item) for item in items] for split, items in dropped.items()}
    return {"counts": counts, "content_hash": hashes, "taken": chosen, "dropped": everything}


def _process(
    draw: Draw, pictures: Pictures, budget: Budget, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Candidate, Future[Picture]]]:
    """Yield each candidate with its picture to come, in order; no more than `ahead` are under way."""

    def one(candidate: Candidate) -> Picture:
        return take(pictures.read(candidate.place), budget)

    for wave in draw.waves():
        running: deque[tuple[Candidate, Future[Picture]]] = deque()
        for candidate in wave:
            running.append((candidate, pool.submit(one, candidate)))
            if len(running) >= ahead:
                yield running.popleft()
        yield from running


def _cores() -> int:
    """Return how many cores this process may use, of which a batch system may give it a few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _storable(text: str) -> str:
    """Return text that can be written as UTF-8, which the name of a file need not be."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
