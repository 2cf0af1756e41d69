"""How fast is data prepared, and how much memory does a large data set take?

    python benchmarks/prepare_data.py                  # both parts, about six minutes on two cores

Throughput: `prepare` against a bare loop that decodes and resizes the same photos on as many threads, in turn, as a
ratio. Scale: a synthetic EmoSet of 118,000 rows, from which 2,000 and 2,000 are drawn in a process of its own; its peak
memory and time. Of the 118,000 photos only the 4,000 exist that the seed draws, each of them another one: if any other
file were opened, it would be missing. Figures: runs/benchmarks/prepare_data.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from emor3_trl.data.pictures import Budget, prepare_image
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Draw, Sampling
from emor3_trl.data.sources import emoset
from emor3_trl.emotions import EMOSET_8

ROWS, DRAWN = 118_000, 2_000
SIZES = ((1024, 768), (800, 1200), (640, 480), (1600, 1067), (2400, 1600))  # pixels, as web photos come


def write_photo(path: Path, seed: int, size: tuple[int, int]) -> None:
    """Save a JPEG that looks like no other: smooth areas, edges and grain."""
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    picture = np.asarray(smooth.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.normal(0, 5, (*size[::-1], 1)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


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
        list(pool.map(lambda seed: write_photo(root / drawn[seed].place, seed, SIZES[2]), range(len(drawn))))


def throughput(folder: Path, photos: int, pairs: int) -> dict[str, float]:
    """Return the ratio of photos per second, `prepare` over the bare loop."""
    root, workers, budget = folder / "small", os.cpu_count() or 1, Budget()
    rows: list[list[str]] = []
    sizes = {}  # of the results, which the bare loop is told
    for seed in range(photos):
        label = EMOSET_8.labels[seed % 8]
        write_photo(root / "image" / label / f"{seed}.jpg", seed, SIZES[seed % len(SIZES)])
        place = f"image/{label}/{seed}.jpg"
        rows.append([label, place, ""])
        sizes[place] = prepare_image((root / place).read_bytes(), budget).size
    for split in ("train", "test"):
        (root / f"{split}.json").write_text(json.dumps(rows))

    def bare(row: list[str]) -> int:
        with Image.open(root / row[1]) as image:
            return image.convert("RGB").resize(sizes[row[1]], Image.Resampling.BICUBIC).width

    def loop() -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(bare, rows))
        return photos / (time.perf_counter() - begin)

    def ours(turn: int) -> float:
        begin = time.perf_counter()
        prepare(emoset.list_candidates(root), folder / f"out{turn}", Sampling(photos, 0), budget, progress=False)
        return photos / (time.perf_counter() - begin)

    loop()
    records = [(loop(), ours(turn)) for turn in range(pairs)]
    ratios = [prepared / plain for plain, prepared in records]
    return {
        "pictures": photos,
        "threads": workers,
        "bare_pictures_per_second": round(statistics.median(plain for plain, _ in records), 1),
        "prepared_pictures_per_second": round(statistics.median(prepared for _, prepared in records), 1),
        "throughput_ratio": round(statistics.median(ratios), 3),
        "throughput_ratio_low": round(min(ratios), 3),
        "throughput_ratio_high": round(max(ratios), 3),
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
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result = {"throughput": throughput(folder, args.photos, args.pairs)}
        print(json.dumps(result["throughput"], indent=1), flush=True)
        write_emoset(folder / "large")
        result["scale"] = scale(folder / "large")
        print(json.dumps(result["scale"], indent=1))
    (args.output_dir / "prepare_data.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written to {args.output_dir / 'prepare_data.json'}")


if __name__ == "__main__":
    main()
