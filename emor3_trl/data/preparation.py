"""Draw train and test from a downloaded data set, as the paper does (Sec. 4.1), and write them ready to use.

What is drawn depends on the source and the arguments alone: candidates are shuffled with a seed and processed in that
order, on all cores. One that cannot be used, or is a picture that was taken already, gives its place to the next
of its label, and goes into the manifest with the reason. Test is drawn first, so it stays the same whatever is trained
on. Only pictures that are drawn are opened, and a few at a time are held in memory.
"""

import json
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from tqdm.auto import tqdm

from emor3_trl.data import SplitWriter, content_hash
from emor3_trl.data.candidates import Candidate, Dropped, Pictures, Source, Unusable
from emor3_trl.data.contact_sheet import ContactSheet
from emor3_trl.data.pictures import Budget, Picture, take
from emor3_trl.data.sampling import Draw, Sampling, split_sizes
from emor3_trl.runs import write_text

MANIFEST = "manifest.json"
NEAR_DUPLICATE_BITS = 4  # of 64: the same picture, scaled or compressed anew


@dataclass
class Taken:
    """What is known of the pictures that were taken: no two splits share one."""

    contents: dict[bytes, str] = field(default_factory=dict)
    fingerprints: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def repeats(self, picture: Picture, split: str) -> str | None:
        """Return why a picture must not be in `split`, None if it may."""
        if picture.content in self.contents:
            return f"is the same file as a picture of {self.contents[picture.content]}"
        for other, known in self.fingerprints.items():
            if other != split and known:
                distance = np.bitwise_count(np.array(known, dtype=np.uint64) ^ np.uint64(picture.fingerprint)).min()
                if distance <= NEAR_DUPLICATE_BITS:
                    return f"is nearly the same as a picture of {other}"
        return None

    def add(self, picture: Picture, split: str) -> None:
        """Remember a picture of `split`."""
        self.contents[picture.content] = split
        self.fingerprints[split].append(picture.fingerprint)


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
    the same.

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
        FileExistsError: if the folder holds other data.
        ValueError: if a split has no candidates, or no picture of them can be used.
        OSError: if the disk has no room.
    """
    output_dir, budget = Path(output_dir), budget or Budget()
    asked = {"source": source.name, **(arguments or {}), **asdict(sampling), **asdict(budget)}
    found = _finished(output_dir, asked, overwrite)
    if found is not None:
        print(f"{output_dir}: already prepared with these arguments, nothing to do (--overwrite prepares it again)")
        return found
    sizes = split_sizes(source, sampling)
    _check_room(output_dir, sum(sizes.values()), budget)
    output_dir.mkdir(parents=True, exist_ok=True)
    for leftover in (*output_dir.glob("*.tmp"), output_dir / MANIFEST):
        leftover.unlink(missing_ok=True)

    taken, sheet = Taken(), ContactSheet(source.label_space.labels)
    dropped = {"source": list(source.dropped)}
    counts: dict[str, dict[str, int]] = {}
    used: set[str] = set()
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for split in (name for name in ("test", "train") if sizes[name]):
            candidates = [one for one in source.pools.get(split, source.pools.get("all", ())) if one.id not in used]
            bar = tqdm(total=sizes[split], desc=f"{source.name} {split}", unit="picture", disable=not progress)
            counted = Counter[str]()
            dropped[split] = []
            with SplitWriter(output_dir, split) as writer:
                draw = Draw(candidates, sizes[split], sampling)
                for candidate, picture in _process(draw, source.pictures, budget, pool):
                    used.add(candidate.id)
                    reason = str(picture) if isinstance(picture, Unusable) else taken.repeats(picture, split)
                    if isinstance(picture, Unusable) or reason:
                        dropped[split].append(Dropped(candidate.id, reason or ""))
                        bar.set_postfix(dropped=len(dropped[split]))
                        continue
                    draw.accept(candidate)
                    taken.add(picture, split)
                    counted[candidate.emotion] += 1
                    sheet.add(split, candidate.emotion, picture.data)
                    labels = source.label_space.labels
                    writer.add(
                        {
                            "id": candidate.id,
                            "image": picture.data,
                            "emotion": candidate.emotion,
                            "label_space": labels,
                            "source": source.name,
                        }
                    )
                    bar.update()
                bar.close()
                if not counted:
                    reasons = Counter(item.reason for item in dropped[split]).most_common(3)
                    raise ValueError(
                        f"No picture of {source.name} {split} could be used: "
                        + "; ".join(f"{count} x {reason}" for reason, count in reasons)
                        + ". Check --source."
                    )
            counts[split] = {label: counted[label] for label in labels}
    sheet.save(output_dir / "contact_sheet.png")
    manifest = {
        **asked,
        "label_space": {"name": source.label_space.name, "labels": list(source.label_space.labels)},
        "candidates": {name: len(pool) for name, pool in source.pools.items()},
        "wanted": sizes,
        "counts": counts,
        "content_hash": {split: content_hash(output_dir, split) for split in counts},
        "dropped": {split: [asdict(item) for item in items] for split, items in dropped.items()},
        "pillow": PIL.__version__,
    }
    write_text(output_dir / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _process(
    draw: Draw, pictures: Pictures, budget: Budget, pool: ThreadPoolExecutor
) -> Iterator[tuple[Candidate, Picture | Unusable]]:
    """Yield each candidate with its picture or the reason why there is none, in order; few are under way at once."""

    def one(candidate: Candidate) -> Picture | Unusable:
        try:
            return take(pictures.read(candidate.place), budget)
        except Unusable as reason:
            return reason

    ahead = 4 * pool._max_workers
    for wave in draw.waves():
        running: deque[tuple[Candidate, Future]] = deque()
        for candidate in wave:
            running.append((candidate, pool.submit(one, candidate)))
            if len(running) >= ahead:
                first, future = running.popleft()
                yield first, future.result()
        for candidate, future in running:
            yield candidate, future.result()


def _finished(output_dir: Path, asked: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the manifest of a folder that was prepared in the same way; None for one that may be written to."""
    manifest = output_dir / MANIFEST
    if overwrite or not manifest.is_file():
        known = {"contact_sheet.png", MANIFEST, "train.parquet", "test.parquet"}
        strangers = [path.name for path in output_dir.glob("*") if path.name not in known and path.suffix != ".tmp"]
        if strangers:
            raise FileExistsError(
                f"output_dir '{output_dir}' holds other files ({', '.join(sorted(strangers)[:5])}). Choose another."
            )
        return None
    found = json.loads(manifest.read_text())
    different = [
        f"{key} was {found.get(key)!r}, now {value!r}" for key, value in asked.items() if found.get(key) != value
    ]
    if different:
        raise FileExistsError(
            f"output_dir '{output_dir}' holds data prepared otherwise: {'; '.join(different)}. "
            "Choose another --output_dir, or replace it with --overwrite."
        )
    return found


def _check_room(output_dir: Path, pictures: int, budget: Budget) -> None:
    """Raise if the disk cannot hold the splits; a photo takes about half a byte per pixel."""
    folder = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.is_dir())
    needed, free = pictures * budget.max_pixels // 2, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{pictures:,} pictures of up to {budget.max_pixels:,} pixels may need {needed / 2**30:.1f} GiB, and the "
            f"disk of '{output_dir}' has {free / 2**30:.1f} GiB. Choose another --output_dir, or lower --max_pixels."
        )
