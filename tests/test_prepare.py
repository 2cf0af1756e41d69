"""Train and test are drawn with a seed, share no picture, and are the same however often they are prepared."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from downloads import photo, save, write_emoset, write_emotion6, write_webemo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emor3_trl.config import UserError, parse
from emor3_trl.data import content_hash, emoset, load_split, own, to_pixel_budget
from emor3_trl.data.arguments import PreparationArguments, open_source
from emor3_trl.data.candidates import Candidate, FolderPictures, Unusable
from emor3_trl.data.pictures import Budget, take
from emor3_trl.data.preparation import prepare
from emor3_trl.data.sampling import Draw, Sampling

SMALL = Budget(min_pixels=784, max_pixels=28 * 28 * 12)
RECIPE = Path(__file__).parent.parent / "recipes" / "prepare_data.py"


def draw(source, folder: Path, train: int = 8, test: int = 8, **options):
    return prepare(source, folder, Sampling(train, test, **options), SMALL, progress=False)


def test_a_split_holds_what_was_drawn_ready_for_training(tmp_path):
    manifest = draw(emoset.read(write_emoset(tmp_path / "in")), tmp_path / "out", train=16)
    rows = load_split(tmp_path / "out", "train")
    assert len(rows) == 16
    assert manifest["counts"]["train"] == dict.fromkeys(manifest["label_space"]["labels"], 2)  # stratified
    for row in rows:
        width, height = row["image"].size
        assert row["image"].mode == "RGB"
        assert width % 28 == height % 28 == 0
        assert 784 <= width * height <= SMALL.max_pixels
        assert f"{row['emotion']}_" in row["id"]
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 300
    assert manifest["content_hash"]["train"] == content_hash(tmp_path / "out", "train")


def test_the_seed_decides_what_is_drawn_and_workers_do_not(tmp_path):
    source = emoset.read(write_emoset(tmp_path / "in"))
    hashes = {}
    for name, seed, workers in (("a", 1, 1), ("b", 1, 5), ("c", 2, 5)):
        prepare(source, tmp_path / name, Sampling(8, 8, seed=seed), SMALL, workers=workers, progress=False)
        hashes[name] = [content_hash(tmp_path / name, split) for split in ("train", "test")]
    assert hashes["a"] == hashes["b"]
    assert not set(hashes["a"]) & set(hashes["c"])


def test_what_is_tested_on_does_not_depend_on_what_is_trained_on(tmp_path):
    source = emoset.read(write_emoset(tmp_path / "in"))
    for name, train in (("few", 8), ("many", 32), ("none", 0)):
        draw(source, tmp_path / name, train=train)
    assert len({content_hash(tmp_path / name, "test") for name in ("few", "many", "none")}) == 1
    assert not (tmp_path / "none" / "train.parquet").exists()


def test_train_and_test_share_no_picture_not_even_a_scaled_or_recompressed_one(tmp_path):
    root = tmp_path / "in"
    for number in range(12):
        save(root / ("joy" if number % 2 else "fear") / f"{number}.jpg", number)
    for number in range(12):  # the same pictures again: as they are, smaller, and compressed anew
        folder = root / ("joy" if number % 2 else "fear")
        if number % 3 == 0:
            (folder / f"copy{number}.jpg").write_bytes((folder / f"{number}.jpg").read_bytes())
        elif number % 3 == 1:
            photo(number).resize((80, 60)).save(folder / f"copy{number}.jpg")
        else:
            photo(number).save(folder / f"copy{number}.jpg", quality=60)
    manifest = draw(own.read(root), tmp_path / "out", train=24, test=6)
    seeds = {
        split: {int(Path(row["id"]).stem.removeprefix("copy")) for row in load_split(tmp_path / "out", split)}
        for split in ("train", "test")
    }
    assert seeds["test"]
    assert not seeds["train"] & seeds["test"]
    reasons = {item["reason"] for items in manifest["dropped"].values() for item in items}
    assert "is nearly the same as a picture of test" in reasons
    assert {"is the same file as a picture of test", "is the same file as a picture of train"} & reasons


def test_a_picture_that_cannot_be_used_gives_its_place_to_the_next_of_its_label(tmp_path):
    source = emoset.read(write_emoset(tmp_path / "in", per_label=4))
    broken = [one for one in source.pools["test"] if one.emotion == "awe"][:3]
    for one in broken:
        (tmp_path / "in" / one.place).write_bytes(b"not a picture")
    manifest = draw(source, tmp_path / "out", test=8)
    assert manifest["counts"]["test"]["awe"] == 1
    assert {item["id"] for item in manifest["dropped"]["test"]} <= {one.id for one in broken}
    manifest = draw(source, tmp_path / "all", test=32)
    assert manifest["counts"]["test"]["awe"] == 1
    assert sum(manifest["counts"]["test"].values()) == 29


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    size=st.integers(1, 40),
    refused=st.sets(st.integers(0, 60)),
    method=st.sampled_from(["stratified", "natural"]),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_any_draw_takes_as_many_as_there_are_and_spreads_them(sizes, size, refused, method, seed):
    pool = [Candidate(f"{label}-{n}", "", f"l{label}") for label, count in enumerate(sizes) for n in range(count)]
    good = [one for number, one in enumerate(pool) if number not in refused]
    draw_ = Draw(pool, size, Sampling(method=method, seed=seed))
    accepted = []
    for wave in draw_.waves():
        for one in wave:
            if one in good:
                draw_.accept(one)
                accepted.append(one)
    assert len(accepted) == min(size, len(good))
    assert len(set(accepted)) == len(accepted)
    if method == "stratified":
        counts = {label: sum(one.emotion == label for one in accepted) for label in {one.emotion for one in good}}
        offered = {label: sum(one.emotion == label for one in good) for label in counts}
        unfilled = [counts[label] for label in counts if counts[label] < offered[label]]
        if unfilled:  # no emotion has more than one beyond what another one, which could have more, got
            assert max(counts.values()) <= min(unfilled) + 1


def test_a_natural_draw_keeps_the_frequencies_of_the_source():
    pool = [Candidate(str(n), "", "joy" if n % 10 else "fear") for n in range(2000)]
    draw_ = Draw(pool, 500, Sampling(method="natural"))
    wave = next(draw_.waves())
    assert 25 <= sum(one.emotion == "fear" for one in wave) <= 80


def cmyk(image):
    return image.convert("CMYK"), "JPEG", {}


def rotated(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return image, "JPEG", {"exif": exif}


GOOD = {
    "plain": lambda image: (image, "JPEG", {}),
    "exif-rotated": rotated,
    "cmyk": cmyk,
    "palette": lambda image: (image.convert("P"), "PNG", {}),
    "grey": lambda image: (image.convert("L"), "PNG", {}),
    "16-bit": lambda image: (Image.new("I;16", (60, 40), 40_000), "PNG", {}),
    "alpha": lambda image: (Image.new("RGBA", (60, 40), (255, 0, 0, 90)), "PNG", {}),
    "animated": lambda image: (image, "GIF", {"save_all": True, "append_images": [photo(2), photo(3)]}),
    "one-pixel": lambda image: (Image.new("RGB", (1, 1), "red"), "PNG", {}),
    "1xN": lambda image: (Image.new("RGB", (1, 150), "red"), "PNG", {}),
    "20000-px": lambda image: (Image.new("RGB", (20_000, 300), "red"), "JPEG", {}),
    "webp": lambda image: (image, "WEBP", {}),
}


def encoded(make) -> bytes:
    image, kind, options = make(photo(1))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_an_unusual_picture_is_taken_rightly(make):
    data = encoded(make)
    taken = Image.open(io.BytesIO(take(data, SMALL).data))
    assert taken.mode == "RGB"
    with Image.open(io.BytesIO(data)) as original:
        original.seek(0)
        expected = to_pixel_budget(original, SMALL.min_pixels, SMALL.max_pixels, 28)
    assert taken.size == expected.size
    difference = [abs(a - b) for a, b in zip(taken.tobytes(), expected.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 3  # JPEG at quality 95 and a smaller decode, no more


def test_a_large_photo_is_decoded_at_a_fraction_of_its_size():
    buffer = io.BytesIO()
    photo(1, (9_000, 8_000)).save(buffer, "JPEG")  # 72 million pixels, more than are decoded at once
    assert take(buffer.getvalue(), SMALL).size == to_pixel_budget(photo(1, (90, 80)), 784, SMALL.max_pixels, 28).size


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "truncated": (lambda: encoded(GOOD["plain"])[:900], "cannot be decoded"),
    "not-a-picture": (lambda: b"<html>not found</html>", "no picture that Pillow knows"),
    "empty": (lambda: b"", "no picture that Pillow knows"),
    "bomb": (bomb, "decompression bomb"),
    "too-many-pixels": (lambda: encoded(lambda _: (Image.new("1", (9_000, 9_000)), "PNG", {})), "more than 60 million"),
    "thread": (lambda: encoded(lambda _: (Image.new("L", (1, 9_000)), "PNG", {})), "times as long as wide"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_a_picture_that_cannot_be_taken_is_dropped_with_a_reason(make, reason):
    with pytest.raises(Unusable, match=reason):
        take(make(), Budget(784, 28 * 28 * 400))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
@pytest.mark.parametrize("kind", ["plain", "palette", "animated", "webp"])
def test_a_damaged_file_is_taken_or_dropped_and_nothing_else(kind, cut, flips):
    data = bytearray(encoded(GOOD[kind]))
    for place, value in flips:
        data[place % len(data)] = value
    with contextlib.suppress(Unusable):
        assert take(bytes(data[: cut or None]), SMALL).size[0] % 28 == 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    root = tmp_path / "root"
    save(root / "in.jpg", 1)
    (root / "link-in.jpg").symlink_to(root / "in.jpg")
    (root / "link-out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "locked.jpg").write_bytes(b"x")
    (root / "locked.jpg").chmod(0)
    return FolderPictures(root)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("../secret.jpg", "leaves the folder"),
        ("a/../../secret.jpg", "leaves the folder"),
        ("/etc/hostname", "absolute"),
        ("link-out.jpg", "symbolic link leads out"),
        ("up/secret.jpg", "symbolic link leads out"),
        ("loop.jpg", "cannot be opened|no such file"),
        ("pipe.jpg", "is not a file"),
        ("folder.jpg", "is not a file|cannot be opened"),
        ("gone.jpg", "no such file"),
        ("a\0b.jpg", "broken path"),
        pytest.param(
            "locked.jpg", "cannot be opened", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")
        ),
    ],
)
def test_nothing_outside_the_folder_is_read_and_nothing_that_is_no_file(folder, place, reason):
    with pytest.raises(Unusable, match=reason):
        folder.read(place)


@pytest.mark.parametrize("place", ["in.jpg", "./in.jpg", "x/../in.jpg", "link-in.jpg"])
def test_what_is_inside_is_read(folder, place):
    (folder.root / "x").mkdir()
    assert folder.read(place)[:2] == b"\xff\xd8"


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "root", "/", "up", "secret.jpg", "in.jpg"]), max_size=6))
@settings(deadline=None)
def test_no_path_reads_the_file_outside(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "paths"
    if not base.exists():
        (base / "root" / "a").mkdir(parents=True)
        (base / "secret.jpg").write_bytes(b"outside")
        (base / "root" / "in.jpg").write_bytes(b"inside")
        (base / "root" / "up").symlink_to(base)
    with contextlib.suppress(Unusable):
        assert FolderPictures(base / "root").read("/".join(parts)) == b"inside"


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_recipe_prepares_each_format_and_a_second_run_reuses_it(tmp_path):
    write_emoset(tmp_path / "emoset", per_label=2)
    write_emotion6(tmp_path / "emotion6", per_label=5)
    write_webemo(tmp_path / "webemo")
    for name, options in (
        ("emoset", ("--train", 16, "--test", 8)),
        ("emotion6", ("--test", 12)),
        ("webemo", ("--train", 0, "--test", 14, "--sampling", "natural")),
        ("own", ("--source", tmp_path / "emotion6" / "images", "--label_space", "emotion6")),
    ):
        out = tmp_path / "out" / name
        source = () if name == "own" else ("--source", tmp_path / name)
        command = ("--dataset", name, *source, *options, "--max_pixels", 10_000, "--min_pixels", 784)
        done = run(*command, "--output_dir", out)
        assert done.returncode == 0, done.stderr
        assert f"Written to {out}" in done.stdout
        assert len(load_split(out, "test")) >= 6
    assert "already prepared" in run(*command, "--output_dir", out).stdout
    again = run(*command, "--output_dir", out, "--seed", 5)
    assert again.returncode == 2
    assert "seed was 0, now 5" in again.stderr
    assert "--overwrite" in again.stderr


def prepare_as_told(arguments: list[str]) -> None:
    (args,) = parse([PreparationArguments], argv=arguments).arguments
    prepare(open_source(args), args.output_dir, args.sampling_of(), args.budget())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "emosets"), "dataset"),
        (("--dataset", "emoset"), "needs --source"),
        (("--source", "x"), "dataset is 'demo'"),
        (("--dataset", "webemo", "--hub_id", "a/b"), "give --source"),
        (("--dataset", "emoset", "--source", "no/where"), "There is no no/where/train.json"),
        (("--dataset", "emoset", "--source", "IN", "--train", "-1"), "Expected 0 or more"),
        (("--dataset", "emoset", "--source", "IN", "--min_pixels", "5"), "784"),
        (("--dataset", "emoset", "--source", "IN", "--train", "0", "--test", "0"), "Nothing to draw"),
        (("--dataset", "emoset", "--source", "IN", "--tets", "3"), "--test"),
        (("--dataset", "own", "--source", "IN/image", "--label_space", "emotion6"), "outside the label space"),
        (("--dataset", "own", "--source", "IN/image", "--label_space", "no.yaml"), "no.yaml"),
    ],
)
def test_a_mistake_is_named_before_any_picture_is_opened(tmp_path, monkeypatch, arguments, words):
    write_emoset(tmp_path / "in", per_label=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FolderPictures, "read", None)
    filled = [str(item).replace("IN", str(tmp_path / "in")) for item in arguments]
    with pytest.raises((UserError, ValueError, FileNotFoundError), match=re.escape(words)):
        prepare_as_told([*filled, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run("--dataset", "emoset", "--source", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "nowhere/train.json" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"other files \(thesis.txt\)"):
        draw(emoset.read(write_emoset(tmp_path / "in")), tmp_path / "out")


def test_a_split_of_which_no_picture_can_be_used_says_why(tmp_path):
    source = emoset.read(write_emoset(tmp_path / "in", per_label=1))
    for one in source.pools["test"]:
        (tmp_path / "in" / one.place).unlink()
    with pytest.raises(ValueError, match="8 x there is no such file"):
        draw(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_the_result_is_the_same(tmp_path):
    write_emoset(tmp_path / "in", per_label=40)
    options = ("--dataset", "emoset", "--source", tmp_path / "in", "--train", 300, "--test", 300)
    began = time.monotonic()
    assert run(*options, "--output_dir", tmp_path / "whole").returncode == 0
    whole = time.monotonic() - began
    generator, killed = random.Random(0), 0
    for _ in range(6):
        command = [sys.executable, str(RECIPE), *map(str, options), "--output_dir", str(tmp_path / "killed")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * generator.uniform(0.3, 0.95))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        if not (tmp_path / "killed" / "manifest.json").exists():
            continue
        assert not list((tmp_path / "killed").glob("*.tmp"))
    assert killed >= 2
    assert run(*options, "--output_dir", tmp_path / "killed").returncode == 0
    for split in ("train", "test"):
        assert content_hash(tmp_path / "killed", split) == content_hash(tmp_path / "whole", split)
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "killed")]
    assert manifests[0] == manifests[1]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "contact_sheet.png", "manifest.json", "test.parquet", "train.parquet",
    ]  # fmt: skip
