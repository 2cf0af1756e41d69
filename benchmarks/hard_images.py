"""What becomes of hard images: taken rightly, or dropped with a reason?

    python benchmarks/hard_images.py               # 400 images, about five minutes on two cores

Made images (`made_images.py`) and images of Pillow's own test archive (downloaded once, 47 MB, to runs/benchmarks) go
through both stages: `prepare`, then `load_split` and a real processor of Qwen2.5-VL. Each does in a process of its own,
with a time limit, beside a plain photo that must be taken in any case. What is taken must be RGB of the size that the
processor keeps, and look like what was meant: for made images that is known, for the archive it is what Pillow itself
decodes. No file beside the folder may be opened. Then all go through the recipe's command at once. Figures and every
outcome: runs/benchmarks/hard_images.json.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from made_images import Hard, encoded, photo, write_made_images
from PIL import Image, ImageOps

REPOSITORY = Path(__file__).parent.parent
TIME_LIMIT = 30.0  # seconds for one image, imports not counted
MAX_DIFFERENCE = 5.0  # levels of 0 to 255, mean; JPEG at quality 95 and another order of averaging give 1 to 3
FIRST = (".jpg", ".webp", ".avif", ".mpo", ".tif", ".tiff")  # of the archive, all of these; then others by lot
MIN_PIXELS, MAX_PIXELS = 28 * 28, 28 * 28 * 36  # those of the tiny model's processor
NOBODY = 65_534
IMPORTS = [  # once for all processes
    "emor3_trl.data.sources.own",
    "emor3_trl.data.preparation",
    "transformers.models.auto.processing_auto",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.tokenization_mistral_common",
]


def archive(folder: Path) -> Path | None:
    """Return Pillow's source archive of the installed version; download it if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pillow-{PIL.__version__}.tar.gz"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), f"pillow=={PIL.__version__}"], check=False)
    return path if path.exists() else None


def unpack(path: Path, root: Path, count: int) -> list[Hard]:
    """Write so many test images of the archive below `root`."""
    with tarfile.open(path) as file:
        members = [one for one in file if one.isfile() and "/Tests/images/" in one.name]
        members.sort(key=lambda one: one.name)
        random.Random(0).shuffle(members)
        members.sort(key=lambda one: not one.name.endswith(FIRST))
        items = []
        for member in members[:count]:
            place = "pillow/" + member.name.split("/Tests/images/")[1]
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            stream = file.extractfile(member)
            assert stream is not None
            (root / place).write_bytes(stream.read())
            items.append(Hard(f"archive: {Path(place).suffix.lstrip('.') or 'other'}", place))
    return items


def both_stages(item: Hard, root: Path, outside: Path, model: Path, out: Path, pipe: Connection) -> None:
    """Prepare and process one image, and send what became of it. Runs in a process of its own."""
    from transformers import AutoProcessor

    from emor3_trl.data import load_split
    from emor3_trl.data.pictures import Budget
    from emor3_trl.data.preparation import prepare
    from emor3_trl.data.sampling import Sampling
    from emor3_trl.data.sources import own
    from emor3_trl.data.sources.candidates import FolderImages

    opened: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            opened.append(os.path.realpath(os.fsdecode(arguments[0])))

    read = FolderImages.read_image

    def read_as_nobody(self: FolderImages, place: str) -> bytes:
        os.seteuid(NOBODY)
        try:
            return read(self, place)
        finally:
            os.seteuid(0)

    if item.private and os.geteuid() == 0:
        FolderImages.read_image = read_as_nobody  # type: ignore[method-assign]
    processor = AutoProcessor.from_pretrained(model)
    out.mkdir(parents=True)
    table = root / f"{out.name}.jsonl"
    places = ["control.jpg", item.place] if not item.private else [item.place]
    table.write_text("".join(json.dumps({"image": place, "emotion": "joy"}) + "\n" for place in places))
    sys.addaudithook(watch)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    result: dict[str, Any] = {"kind": item.kind, "place": item.place}
    try:
        source = own.list_candidates(table, "emotion6")
        budget = Budget(MIN_PIXELS, MAX_PIXELS)
        manifest = prepare(source, out / "data", Sampling(0, 2, "natural"), budget, progress=False)
        reasons = {one["id"]: one["reason"] for one in manifest["dropped"]["test"]}
    except ValueError as error:  # the private image stands alone, so that its split is empty
        if not item.private:
            raise
        reasons = {f"{table.name}:1": str(error)}
    name = f"{table.name}:{len(places)}"
    result["outcome"], result["reason"] = ("dropped", reasons[name]) if name in reasons else ("taken", None)
    if result["outcome"] == "taken":
        rows = {row["id"]: row for row in load_split(out / "data", "test")}
        image, prompt = rows[name]["image"], rows[name]["prompt"]
        content = [{"type": "image"}, {"type": "text", "text": prompt[0]["content"]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        batch = processor(text=[text], images=[image], return_tensors="pt")
        _, high, wide = batch["image_grid_thw"][0].tolist()
        tokens = int((batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum())
        kept = (14 * wide, 14 * high) == image.size and 4 * tokens == high * wide
        result["right_size"] = kept and image.mode == "RGB" and bool(batch["pixel_values"].isfinite().all())
    result["seconds"] = round(time.perf_counter() - began, 3)
    result["memory_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    result["opened_outside"] = [path for path in opened if Path(path).is_relative_to(outside)]
    meant = meant_by(item, root)
    if result["outcome"] == "taken" and isinstance(meant, Image.Image):
        apart = np.abs(np.asarray(image, np.int16) - np.asarray(meant.resize(image.size), np.int16)).mean()
        result["difference"] = round(float(apart), 2)
    if item.expected is None:
        result["pillow_reads_it"] = meant is not None
    result["verdict"] = verdict(result, item)
    pipe.send(result)


def meant_by(item: Hard, root: Path) -> Image.Image | None:
    """Return the upright RGB picture that an image means: what was made, or what plain Pillow reads from an archive."""
    if item.expected is not None or not item.kind.startswith("archive"):
        return item.expected if isinstance(item.expected, Image.Image) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO((root / item.place).read_bytes())) as image:
                if image.mode.startswith(("I", "F")):
                    return None  # a plain conversion would clip
                upright = ImageOps.exif_transpose(image).convert("RGBA")
        except Exception:
            return None
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def verdict(result: dict[str, Any], item: Hard) -> str:
    """Return "right", or what is wrong."""
    if result["opened_outside"]:
        return "opened a file outside"
    if isinstance(item.expected, Image.Image) and result["outcome"] == "dropped":
        return "dropped a good image"
    if isinstance(item.expected, str):
        if result["outcome"] == "taken":
            return "took a bad image"
        return "right" if re.search(item.expected, result["reason"]) else "gave another reason"
    if result["outcome"] == "taken" and not result["right_size"]:
        return "took it in the wrong size"
    return "right" if result.get("difference", 0) <= MAX_DIFFERENCE else "took it wrongly"


def limited(context: Any, *arguments: Any) -> dict[str, Any]:
    """Run `both_stages` in a process with a time limit."""
    item = arguments[0]
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=both_stages, args=(*arguments, sender))
    process.start()
    sender.close()
    result = {"kind": item.kind, "place": item.place, "seconds": TIME_LIMIT, "outcome": "hang", "verdict": "hang"}
    if receiver.poll(TIME_LIMIT + 60):  # imports included
        try:
            result = receiver.recv()
        except EOFError:
            result |= {"outcome": "crash", "verdict": "crash", "seconds": 0.0}
        process.join(10)
    process.kill()
    process.join()
    if result["seconds"] > TIME_LIMIT:
        result["verdict"] = "took too long"
    return result


def all_at_once(items: list[Hard], root: Path, out: Path) -> dict[str, Any]:
    """Run the recipe's command on all images; return the outcome of each place, and the time."""
    table = root / "all.jsonl"
    table.write_text("".join(json.dumps({"image": item.place, "emotion": "joy"}) + "\n" for item in items))
    command = [
        sys.executable,
        str(REPOSITORY / "recipes" / "prepare_data.py"),
        "--dataset",
        "own",
        "--source",
        str(table),
    ]
    command += ["--label_space", "emotion6", "--train", "0", "--test", str(len(items)), "--sampling", "natural"]
    command += ["--min_pixels", str(MIN_PIXELS), "--max_pixels", str(MAX_PIXELS), "--output_dir", str(out)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    outcomes = dict.fromkeys(manifest["taken"]["test"], "taken")
    repeated = [one["id"] for one in manifest["dropped"]["test"] if "is the same file" in one["reason"]]
    outcomes |= {one["id"]: "dropped" for one in manifest["dropped"]["test"]} | dict.fromkeys(repeated, "taken")
    return {
        "outcomes": [outcomes.get(f"all.jsonl:{number}", "lost") for number in range(1, len(items) + 1)],
        "seconds": round(time.perf_counter() - began, 1),
        "same_file_twice": len(repeated),
        "stderr": [line for line in done.stderr.splitlines() if "picture" not in line],
    }


def table_of(results: list[dict[str, Any]]) -> str:
    """Return the outcomes by kind."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_kind[result["kind"]].append(result)
    by_kind["all"] = results
    lines = [f"{'kind':24}{'images':>8}{'taken':>8}{'dropped':>9}{'wrong':>7}{'slowest s':>11}{'MiB':>6}"]
    for kind, some in by_kind.items():
        counts = Counter(result["outcome"] for result in some)
        wrong = sum(result["verdict"] != "right" for result in some)
        slowest, memory = (max(result.get(key, 0) for result in some) for key in ("seconds", "memory_mib"))
        lines.append(
            f"{kind:24}{len(some):8}{counts['taken']:8}{counts['dropped']:9}{wrong:7}{slowest:11.2f}{memory:6}"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the images, take each through both stages, then all at once; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="made ones, and of the archive as many as are missing")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from tiny_model import build_tiny_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, outside = folder / "root", folder / "outside"
        root.mkdir()
        items = write_made_images(root, outside)
        (root / "control.jpg").write_bytes(encoded(photo(seed=1), "JPEG"))
        path = archive(args.output_dir / "pillow")
        if path is None:
            print("Pillow's source archive cannot be downloaded: made images only.")
        else:
            items += unpack(path, root, max(0, args.images - len(items)))
        model = build_tiny_model(folder / "model")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTS)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ways = [(context, item, root, outside, model, folder / f"one{n}") for n, item in enumerate(items)]
            results = list(pool.map(lambda way: limited(*way), ways))
        several = [(item, result) for item, result in zip(items, results, strict=True) if not item.private]
        together = all_at_once([item for item, _ in several], root, folder / "together")
    pairs = zip(several, together.pop("outcomes"), strict=True)
    differing = [item.place for (item, alone), outcome in pairs if alone["outcome"] != outcome]
    print(table_of(results))
    for result in results:
        if result["verdict"] != "right":
            print("WRONG:", result)
    unread = [result["place"] for result in results if result["outcome"] == "dropped" and result.get("pillow_reads_it")]
    print(f"Dropped, though Pillow reads it ({len(unread)}): {', '.join(map(repr, unread))}")
    print(f"All {len(several)} with the recipe's command: {together}; other outcomes than alone: {differing}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    report = {
        "images": len(results),
        "outcomes": dict(Counter(result["outcome"] for result in results)),
        "compared": sum("difference" in result for result in results),
        "wrong": sum(result["verdict"] != "right" for result in results),
        "opened_outside": sum(bool(result.get("opened_outside")) for result in results),
        "all_at_once": {**together, "other_outcomes": differing},
        "pillow": PIL.__version__,
        "results": results,
    }
    (args.output_dir / "hard_images.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"Written to {args.output_dir / 'hard_images.json'}")


if __name__ == "__main__":
    main()
