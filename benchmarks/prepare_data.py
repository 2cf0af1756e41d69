"""How fast is data prepared, and how much memory does a large data set take?

    python benchmarks/prepare_data.py                  # all parts, about ten minutes on two cores

Throughput, of 300 photos and of 2,000 (2 to 4 megapixels, JPEG): `prepare` against the loop that one writes by hand, on
as many threads, in turn. Per photo it opens the file, turns it upright by its EXIF, converts to RGB, resizes it
(Pillow, bicubic) to the size that `prepare` gives it, which it is told, and saves a JPEG of quality 95. It checks
nothing, and leaves no table. A second loop does not even save. The ratio is the loop's time over that of `prepare`.

Scale: a synthetic EmoSet of 118,000 rows, from which 2,000 and 2,000 are drawn in a process of its own; its peak
memory and time. Of the 118,000 photos only the 4,000 exist that the seed draws, each of them another one: if any other
file were opened, it would be missing. Figures: runs/benchmarks/prepare_data.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, summarise_ratios
from PIL import ExifTags, Image, ImageOps

from emor3_trl.data.pictures import JPEG_QUALITY, Budget, prepare_image
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Draw, Sampling
from emor3_trl.data.sources import emoset
from emor3_trl.emotions import EMOSET_8

ROWS, DRAWN = 118_000, 2_000
PHOTO_SIZES = ((1600, 1200), (2048, 1536), (1920, 1080), (2304, 1728), (1536, 2048))  # pixels, 1.9 to 4 million
DRAWN_PHOTOS = 300
WEB_SIZE = (640, 480)


def write_photo(path: Path, seed: int, size: tuple[int, int], exif: Image.Exif | None = None) -> None:
    """Save a JPEG that looks like no other: smooth areas, edges and grain."""
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    picture = np.asarray(smooth.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.normal(0, 5, (*size[::-1], 1)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90, exif=exif or Image.Exif())


def write_emoset(root: Path) -> None:
    """Write the lists of a synthetic EmoSet, and the photos that are drawn from them."""
    root.mkdir(parents=True)
    for split, share in (("train", 0.8), ("val", 0.05), ("test", 0.15)):
        rows = []
        for number in range(round(ROWS * share)):
            label = EMOSET_8.labels[number % 8]
            place = f"image/{label}/{label}_{split}{number:06d}.jpg"
            rows.append([label, place, f"annotation/{label}/{label}_{split}{number:06d}.json"])
        (root / f"{split}.json").write_text(json.dumps(rows))
    source = emoset.list_candidates(root)
    drawn = [one for split in ("test", "train") for one in next(Draw(source.pools[split], DRAWN, Sampling()).waves())]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda seed: write_photo(root / drawn[seed].place, seed, WEB_SIZE), range(len(drawn))))


def write_photos(root: Path, count: int) -> list[list[str]]:
    """Write the lists and photos of an EmoSet, one of five turned by its EXIF; return its rows.

    Of more than `DRAWN_PHOTOS`, the others hold the same pixels with another comment, so that no two files are equal.
    """
    rows: list[list[str]] = []
    for number in range(count):
        label = EMOSET_8.labels[number % 8]
        rows.append([label, f"image/{label}/{number}.jpg", ""])
    for seed in range(min(count, DRAWN_PHOTOS)):
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 6 if seed % 5 == 0 else 1
        write_photo(root / rows[seed][1], seed, PHOTO_SIZES[seed % len(PHOTO_SIZES)], turned)
    for number in range(DRAWN_PHOTOS, count):
        start, comment = 2, f"copy {number}".encode()  # after the marker that starts a JPEG
        drawn = (root / rows[number % DRAWN_PHOTOS][1]).read_bytes()
        (root / rows[number][1]).parent.mkdir(exist_ok=True)
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (root / rows[number][1]).write_bytes(drawn[:start] + segment + drawn[start:])
    for split in ("train", "test"):
        (root / f"{split}.json").write_text(json.dumps(rows))
    return rows


def throughput(folder: Path, photos: int, rounds: int) -> dict[str, Any]:
    """Return what `prepare` and the two loops take for so many photos."""
    root, by_hand, workers, budget = folder / "source", folder / "by_hand", os.cpu_count() or 1, Budget()
    rows = write_photos(root, photos)
    by_hand.mkdir()
    sizes = [prepare_image((root / place).read_bytes(), budget).size for _, place, _ in rows[:DRAWN_PHOTOS]]

    def resize(number: int) -> Image.Image:
        with Image.open(root / rows[number][1]) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return upright.resize(sizes[number % DRAWN_PHOTOS], Image.Resampling.BICUBIC)

    def resize_and_save(number: int) -> None:
        resize(number).save(by_hand / f"{number}.jpg", quality=JPEG_QUALITY)

    def run_loop(work: Callable[[int], object]) -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(work, range(photos)):
                pass

    def run_prepare() -> None:
        output = folder / "prepared"
        manifest = prepare(emoset.list_candidates(root), output, Sampling(photos, 0), budget, progress=False)
        if sum(manifest["counts"]["train"].values()) != photos:
            raise RuntimeError(f"Of {photos} photos were dropped: {manifest['dropped']['train'][:3]}")
        shutil.rmtree(output)

    arms = {"loop": lambda: run_loop(resize_and_save), "loop_without_saving": lambda: run_loop(resize)}
    arms["prepare"] = run_prepare
    run_loop(resize)  # from now on the files are in memory
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in arms if number % 2 == 0 else reversed(arms):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            arms[name]()
            seconds[name].append(time.perf_counter() - begin)
            cpu_seconds[name].append(time.process_time() - cpu_begin)
    return {
        "photos": photos,
        "threads": workers,
        "photos_per_second": {name: round(photos / statistics.median(times), 1) for name, times in seconds.items()},
        "ratio": summarise_ratios(seconds["loop"], seconds["prepare"]),
        "ratio_without_saving": summarise_ratios(seconds["loop_without_saving"], seconds["prepare"]),
        "cpu_ratio": summarise_ratios(cpu_seconds["loop"], cpu_seconds["prepare"]),
        "cpu_ratio_without_saving": summarise_ratios(cpu_seconds["loop_without_saving"], cpu_seconds["prepare"]),
    }


def scale(folder: Path) -> dict[str, float]:
    """Draw from 118,000 rows in a process of its own, and return its figures."""
    done = subprocess.run([sys.executable, __file__, "--worker", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def work(root: Path) -> None:
    """Read 118,000 rows, draw 2,000 and 2,000 of them, print time and peak memory."""
    begin = time.perf_counter()
    source = emoset.list_candidates(root)
    listed = time.perf_counter() - begin
    manifest = prepare(source, root / "out", Sampling(DRAWN, DRAWN), progress=False)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    figures = {
        "rows": sum(len(pool) for pool in source.pools.values()),
        **{split: sum(counts.values()) for split, counts in manifest["counts"].items()},
        "dropped": sum(map(len, manifest["dropped"].values())),
        "seconds": round(time.perf_counter() - begin, 1),
        "seconds_to_list": round(listed, 1),
        "peak_memory_mib": round(int(peak.split()[1]) / 1024),
    }
    print(json.dumps(figures))


def main() -> None:
    """Measure both parts, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="*", default=[300, 2000], help="points; none: the scale alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip_scale", action="store_true", help="keep the figures of 118,000 rows that are saved")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "prepare_data.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    machine = {"machine": describe_machine("pillow", "torch", "pyarrow")}
    result["throughput"] = []
    for photos in args.photos:
        with tempfile.TemporaryDirectory() as temporary:
            result["throughput"].append(throughput(Path(temporary), photos, args.rounds) | machine)
        print(json.dumps(result["throughput"][-1], indent=1), flush=True)
    if not args.skip_scale:
        with tempfile.TemporaryDirectory() as temporary:
            write_emoset(Path(temporary) / "large")
            result["scale"] = scale(Path(temporary) / "large") | machine
        print(json.dumps(result["scale"], indent=1))
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
