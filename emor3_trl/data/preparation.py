"""Draw train and test from a downloaded data set (paper, Sec. 4.1) and write them ready to use.

The source and the arguments alone decide what is drawn: candidates are shuffled with a seed and processed in that
order, on all cores. A candidate that cannot be used, or that was taken already, gives its place to the next of its
label and goes into the manifest with the reason. Test is drawn first, so it stays the same whatever is trained on.
Only images that are drawn are opened, and a few at a time are held in memory.
"""

import json
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import PIL
from tqdm.auto import tqdm

from emor3_trl.data import SplitWriter
from emor3_trl.data.contact_sheet import ContactSheet
from emor3_trl.data.duplicates import SeveralEmotions, TakenImages
from emor3_trl.data.output_folder import (
    MANIFEST,
    SHEET,
    UNFINISHED,
    check_room_for,
    find_prepared,
    lock_folder,
    publish,
)
from emor3_trl.data.pictures import Budget, PreparedImage, prepare_image
from emor3_trl.data.sampling import Draw, Sampling, compute_split_sizes
from emor3_trl.data.sources.candidates import Candidate, Dropped, Source, Unusable
from emor3_trl.data.sources.messages import build_error, quote, shorten
from emor3_trl.data.split_checks import VOTES
from emor3_trl.files import write_text


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
    the same. The files of an earlier preparation stay until all is drawn, and never stand beside a new split.

    Args:
        source: what the data set offers.
        output_dir: folder to write to.
        sampling: how much, and how.
        budget: the size of stored images.
        arguments: what else the user set; it is recorded, and compared when the folder holds a manifest.
        workers: threads; all cores by default. (Pillow lets go of the interpreter lock.)
        overwrite: replace what the folder holds.
        progress: show a bar.

    Returns:
        The manifest.

    Raises:
        FileExistsError: if the folder holds other data, or another preparation is writing to it.
        ValueError: if a split has no candidates, or none of their images can be used.
        OSError: if the disk has no room.
    """
    output_dir, budget = Path(output_dir), budget or Budget()
    settings = _describe_settings(source, sampling, budget, arguments)
    prepared = find_prepared(output_dir, settings, overwrite)
    sizes = compute_split_sizes(source, sampling)
    if prepared is None:
        check_room_for(output_dir, source, sizes, budget)
    folder = output_dir / UNFINISHED
    with lock_folder(output_dir):
        prepared = find_prepared(output_dir, settings, overwrite)  # another preparation may have ended meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        if prepared is not None:
            print(f"{output_dir}: already prepared with these arguments, nothing to do (--overwrite prepares it again)")
            return prepared
        folder.mkdir()
        try:
            drawing = _Drawing(source, sizes, sampling, budget, folder, workers or _count_cores(), progress)
            manifest = settings | drawing.draw() | {"pillow": PIL.__version__}
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            write_text(folder / MANIFEST, _make_storable(text))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        publish(folder, output_dir)
    return manifest


def _describe_settings(
    source: Source, sampling: Sampling, budget: Budget, arguments: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what decides the result of a preparation."""
    space = source.label_space
    return {
        "source": source.name,
        **(arguments or {}),
        **asdict(sampling),
        **asdict(budget),
        "label_space": {"name": space.name, "labels": list(space.labels)},
        "candidates_hash": source.candidates_hash(),
    }


@dataclass
class _SplitRecord:
    """What became of the candidates of one split."""

    counts: Counter[str] = field(default_factory=Counter)  # emotion -> images
    taken: dict[str, str] = field(default_factory=dict)  # id -> SHA-256 of the file
    dropped: list[Dropped] = field(default_factory=list)
    content_hash: str = ""


@dataclass
class _Drawing:
    """Draws the splits of a source and writes them to a folder."""

    source: Source
    sizes: dict[str, int]
    sampling: Sampling
    budget: Budget
    folder: Path
    workers: int
    progress: bool

    def draw(self) -> dict[str, Any]:
        """Write the splits and the contact sheet; return what was taken and dropped."""
        self._ambiguous: dict[str, str] = {}  # candidates whose file stands under several emotions, with the other one
        with ThreadPoolExecutor(self.workers) as self._threads, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # an odd image is taken or dropped, and not worth a warning
            count = -1
            while count != len(self._ambiguous):  # drawn again without them, so that none of them is taken
                count = len(self._ambiguous)
                self._taken, self._sheet = TakenImages(), ContactSheet(self.source.label_space.labels)
                self._tried: set[str] = set()
                records = {split: self._draw_split(split) for split in ("test", "train") if self.sizes[split]}
                self._report_ambiguous(count)
        self._sheet.save(self.folder / SHEET)
        left_out = [Dropped(name, "is the same file as one under another emotion") for name in self._ambiguous]
        dropped = {"source": [*self.source.dropped, *left_out]}
        dropped |= {split: record.dropped for split, record in records.items()}
        labels = self.source.label_space.labels
        return {
            "candidates": {name: len(pool) for name, pool in self.source.pools.items()},
            "notes": self.source.notes,
            "wanted": self.sizes,
            "counts": {split: {label: record.counts[label] for label in labels} for split, record in records.items()},
            "content_hash": {split: record.content_hash for split, record in records.items()},
            "taken": {split: record.taken for split, record in records.items()},
            "dropped": {split: [asdict(item) for item in items] for split, items in dropped.items()},
        }

    def _draw_split(self, split: str) -> _SplitRecord:
        """Write a split and return what became of its candidates."""
        pool = self.source.pools.get(split, self.source.pools.get("all", ()))
        candidates = [one for one in pool if one.id not in self._tried and one.id not in self._ambiguous]
        draw, record = Draw(candidates, self.sizes[split], self.sampling), _SplitRecord()
        self._taken.begin_split(split)
        description = f"{self.source.name} {split}"
        bar = tqdm(total=self.sizes[split], desc=description, unit="picture", disable=not self.progress)
        with SplitWriter(self.folder, split) as writer, bar:
            for candidate, future in self._prepare_images(draw):
                self._tried.add(candidate.id)
                try:
                    image = future.result()
                    self._taken.add(image.content, image.look, candidate.id, candidate.emotion)
                except Unusable as reason:
                    if isinstance(reason, SeveralEmotions):
                        self._ambiguous |= {reason.first: candidate.id, candidate.id: reason.first}
                    record.dropped.append(Dropped(candidate.id, str(reason)))
                    continue
                draw.accept(candidate)
                record.counts[candidate.emotion] += 1
                record.taken[candidate.id] = image.content.hex()
                self._sheet.add(split, candidate.emotion, image.thumbnail)
                writer.add(self._build_row(candidate, image))
                bar.update()
            if not record.counts:
                raise self._refuse_empty(description, candidates, record)
        record.content_hash = writer.content_hash()
        return record

    def _refuse_empty(self, description: str, candidates: list[Candidate], record: _SplitRecord) -> ValueError:
        """Return the error for a split of which no image can be used."""
        reasons = Counter(item.reason for item in record.dropped).most_common(3)
        listed = "; ".join(f"{count:,} x {shorten(reason, 80)}" for reason, count in reasons) or "none is left"
        example = f" One is {quote(candidates[0].place, 80)}." if candidates else ""
        return build_error(f"No picture of {description} could be used: {listed}.{example}", self.source.advise())

    def _report_ambiguous(self, before: int) -> None:
        """Say which candidates are left out because their file stands under several emotions."""
        if len(self._ambiguous) > before:
            pairs = [f"{shorten(first)} and {shorten(second)}" for first, second in self._ambiguous.items()]
            print(
                f"{len(self._ambiguous):,} candidates are the same file under several emotions (e.g. {pairs[0]}). They "
                "are left out, and the rest is drawn again.",
                flush=True,
            )

    def _build_row(self, candidate: Candidate, image: PreparedImage) -> dict[str, Any]:
        row = {
            "id": _make_storable(candidate.id),
            "image": image.data,
            "emotion": candidate.emotion,
            "label_space": self.source.label_space.labels,
            "source": self.source.name,
        }
        return row if candidate.votes is None else row | {VOTES: candidate.votes}

    def _prepare_images(self, draw: Draw) -> Iterator[tuple[Candidate, Future[PreparedImage]]]:
        """Yield each candidate with its image to come, in order. A few are under way at a time."""

        def read_and_prepare(candidate: Candidate) -> PreparedImage:
            return prepare_image(self.source.images.read_image(candidate.place), self.budget)

        for wave in draw.waves():
            running: deque[tuple[Candidate, Future[PreparedImage]]] = deque()
            for candidate in wave:
                running.append((candidate, self._threads.submit(read_and_prepare, candidate)))
                if len(running) >= 4 * self.workers:
                    yield running.popleft()
            yield from running


def _count_cores() -> int:
    """Return how many cores this process may use. A batch system may give it only a few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_storable(text: str) -> str:
    """Return text that can be written as UTF-8. The name of a file need not be valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
