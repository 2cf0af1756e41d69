"""Splits on disk: what is written is read back, and faults are named before a model loads."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import emor3_trl.data.splits
from emor3_trl.data import SplitWriter, content_hash, count_rows, load_split, to_pixel_budget, write_split
from emor3_trl.emotions import EMOTION6
from emor3_trl.prompts import prompt_text

LABELS = ["awe", "fear", "sadness"]


def row(number, **changes):
    image = Image.new("RGB", (30, 20), (number % 256, 10, 20))
    plain = {"id": f"p{number}", "image": image, "emotion": LABELS[number % 3], "label_space": LABELS, "source": "here"}
    return {**plain, **changes}


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_rows_are_counted_without_reading_one(tmp_path, monkeypatch):
    path = write_split(tmp_path, "train", [row(number) for number in range(7)])
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    path.write_bytes(b"\0" * (len(content) - footer) + content[-footer:])  # not one row is left
    assert count_rows(tmp_path, "train") == 7


def test_rows_of_no_split_cannot_be_counted(tmp_path):
    with pytest.raises(FileNotFoundError, match="no split 'train'"):
        count_rows(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"train\.parquet cannot be read as a Parquet file"):
        count_rows(tmp_path, "train")


def test_a_split_is_read_back_with_its_prompts(tmp_path):
    write_split(tmp_path, "train", [row(number) for number in range(5)])
    dataset = load_split(tmp_path, "train", prompt_style="direct")
    assert dataset.column_names == ["id", "image", "prompt", "emotion", "label_space", "source"]
    example = dataset[4]
    assert example["prompt"] == [{"role": "user", "content": prompt_text("direct", LABELS)}]
    assert (example["id"], example["emotion"], example["label_space"]) == ("p4", "fear", LABELS)
    assert example["image"].size == (30, 20)
    assert example["image"].getpixel((0, 0)) == (4, 10, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]
    assert dataset.cache_files == []


def test_a_sample_is_seeded_keeps_the_rows_whole_and_spans_row_groups(tmp_path):
    write_split(tmp_path, "train", [row(number) for number in range(600)])
    first, again, other = (load_split(tmp_path, "train", max_samples=50, seed=seed) for seed in (0, 0, 1))
    assert first["id"][:] == again["id"][:] != other["id"][:]
    numbers = [int(name[1:]) for name in first["id"]]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 256
    for number, example in zip(numbers, first, strict=True):
        assert example["image"].getpixel((0, 0))[0] == number % 256
    assert len(load_split(tmp_path, "train", max_samples=10_000)) == 600


def test_a_missing_folder_or_split_is_named_with_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data\.py"):
        load_split(tmp_path / "nowhere", "train")
    write_split(tmp_path, "train", [row(0)])
    write_split(tmp_path, "test", [row(0)])
    with pytest.raises(FileNotFoundError, match=r"no split 'trian' .* test, train"):
        load_split(tmp_path, "trian")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"emotion": "joyful"}, r"Unknown emotion 'joyful' in row 2 .*awe, fear, sadness", id="unknown"),
        pytest.param({"emotion": "Awe"}, "Write it as 'awe'", id="upper-case"),
        pytest.param({"emotion": None}, "Unknown emotion None in row 2", id="null"),
        pytest.param({"label_space": ["awe"]}, "Row 2 .*two or more labels", id="one-label"),
        pytest.param({"label_space": []}, "Row 2 .*two or more labels", id="no-labels"),
        pytest.param({"id": "p0"}, "'p0' of row 0 comes again in row 2", id="same-id"),
    ],
)
def test_a_faulty_label_is_refused_when_written_and_when_read(tmp_path, changes, message):
    rows = [row(0), row(1), row(2, **changes)]
    with pytest.raises(ValueError, match=message):
        write_split(tmp_path, "train", rows)
    assert list(tmp_path.iterdir()) == []
    stored = [{**each, "image": {"bytes": png(each["image"]), "path": None}} for each in rows]
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=message):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("limit", [5_000, 1], ids=["decoded", "checksums"])
@pytest.mark.parametrize("kind", ["no-picture", "truncated", "flipped", "empty"])
def test_an_unreadable_picture_is_named(tmp_path, monkeypatch, limit, kind):
    monkeypatch.setattr(emor3_trl.data.splits, "FULL_CHECK_LIMIT", limit)
    whole = png(Image.effect_noise((40, 40), 50))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    broken = {"no-picture": b"hello", "truncated": whole[:middle], "flipped": flipped, "empty": b""}[kind]
    write_split(tmp_path, "train", [row(0), row(1, image=broken), row(2)])
    with pytest.raises(ValueError, match=r"row 1 \(id 'p1'\) .*train\.parquet"):
        load_split(tmp_path, "train")


def test_other_faults_are_told(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        write_split(tmp_path, "train", [])
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="Parquet"):
        load_split(tmp_path, "broken")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column image, emotion, label_space, source"):
        load_split(tmp_path, "other")
    write_split(tmp_path, "train", [row(0)])
    with pytest.raises(ValueError, match="max_samples is 0"):
        load_split(tmp_path, "train", max_samples=0)
    with pytest.raises(ValueError, match="prompt style"):
        load_split(tmp_path, "train", prompt_style="steps")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_a_known_label_space_may_be_named(tmp_path, kind):
    write_split(tmp_path, "named", [row(0, emotion="joy", label_space="emotion6")])
    table = pq.read_table(tmp_path / "named.parquet")
    other = table.set_column(3, "label_space", pa.array(["emotion6"], kind))
    pq.write_table(other, tmp_path / "other.parquet")
    assert load_split(tmp_path, "named")["label_space"][0] == load_split(tmp_path, "other")["label_space"][0]
    assert load_split(tmp_path, "named")["label_space"][0][:2] == list(EMOTION6.labels[:2])
    pq.write_table(table.set_column(3, "label_space", pa.array(["emoset_9"], kind)), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="Unknown label space 'emoset_9'"):
        load_split(tmp_path, "other")


def test_an_interrupted_write_leaves_the_old_split(tmp_path, monkeypatch):
    write_split(tmp_path, "train", [row(0)])

    def fail(self, table, **options):
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_split(tmp_path, "train", [row(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]
    assert load_split(tmp_path, "train")["id"][:] == ["p0"]


def test_the_content_hash_is_that_of_the_rows(tmp_path):
    write_split(tmp_path, "one", [row(0), row(1)])
    write_split(tmp_path, "same", [row(0), row(1)])
    write_split(tmp_path, "other", [row(0), row(1, emotion="awe")])
    write_split(tmp_path, "pixels", [row(0), row(1, image=Image.new("RGB", (30, 20)))])
    hashes = {split: content_hash(tmp_path, split) for split in ("one", "same", "other", "pixels")}
    assert hashes["one"] == hashes["same"]
    assert len(set(hashes.values())) == 3


def stored(image):
    """Return an image as a camera stores it that was turned: EXIF says how to see it upright."""
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif, quality=95)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_an_image_that_exif_turns_is_stored_upright_and_once(tmp_path):
    image = Image.new("RGB", (60, 20), "blue")
    image.paste("red", (0, 0, 30, 20))  # the left half, which EXIF turns to the top
    turned = stored(image)
    write_split(tmp_path, "plain", [row(0, image=turned)])
    write_split(tmp_path, "resized", [row(0, image=to_pixel_budget(turned, 1, 10_000))])
    for split in ("plain", "resized"):
        upright = load_split(tmp_path, split)[0]["image"]
        assert upright.size == (20, 60)
        assert upright.getpixel((10, 5))[0] > 200 > 60 > upright.getpixel((10, 55))[0]
        assert upright.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        pytest.param(Image.new("I;16", (30, 20), 128 * 256), (128, 128, 128), id="16-bit"),
        pytest.param(Image.new("RGBA", (30, 20), (0, 0, 0, 0)), (255, 255, 255), id="transparent"),
        pytest.param(Image.new("CMYK", (30, 20), (0, 0, 0, 255)), (0, 0, 0), id="cmyk"),
        pytest.param(Image.new("L", (30, 20), 77), (77, 77, 77), id="grey"),
    ],
)
def test_an_image_of_any_mode_is_stored_as_it_looks(tmp_path, image, colour):
    write_split(tmp_path, "train", [row(0, image=image)])
    assert load_split(tmp_path, "train")[0]["image"].getpixel((9, 9)) == colour


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_of_32_bits_is_refused_with_its_row(tmp_path, mode):
    with pytest.raises(ValueError, match=r"image of row 'p1' cannot be stored: it holds 32-bit values.*Convert it"):
        write_split(tmp_path, "train", [row(0), row(1, image=Image.new(mode, (30, 20), 9))])
    assert not list(tmp_path.iterdir())


def test_votes_are_kept_beside_the_emotion(tmp_path):
    votes = [[0.25, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    write_split(tmp_path, "train", [row(number, votes=shares) for number, shares in enumerate(votes)])
    dataset = load_split(tmp_path, "train")
    assert dataset.column_names == ["id", "image", "prompt", "emotion", "label_space", "source", "votes"]
    assert dataset["votes"][:] == votes
    assert load_split(tmp_path, "train", max_samples=1)["votes"][0] in votes
    with SplitWriter(tmp_path, "again") as writer:
        for number, shares in enumerate(votes):
            writer.add(row(number, votes=tuple(shares)))
    assert writer.content_hash() == content_hash(tmp_path, "again") == content_hash(tmp_path, "train")
    write_split(tmp_path, "other", [row(0, votes=[0.5, 0.5, 0]), row(1, votes=votes[1])])
    assert content_hash(tmp_path, "other") != content_hash(tmp_path, "train")


@pytest.mark.parametrize(
    "votes",
    [
        pytest.param([[0.5, 0.5, 0.0], None], id="missing"),
        pytest.param([None, [0.5, 0.5, 0.0]], id="late"),
        pytest.param([[0.5, 0.5, 0.0], [0.5, 0.5]], id="too-few"),
        pytest.param([[0.5, 0.5, 0.0], [3, 1, 0]], id="counts"),
        pytest.param([[0.5, 0.5, 0.0], [1.5, -0.5, 0.0]], id="negative"),
        pytest.param([[0.5, 0.5, 0.0], [float("nan"), 0.5, 0.5]], id="nan"),
    ],
)
def test_votes_that_are_no_shares_are_refused_when_written_and_when_read(tmp_path, votes):
    rows = [row(number, votes=shares) for number, shares in enumerate(votes)]
    with pytest.raises(ValueError, match=r"votes of row 'p1' .*one share for each of its 3 labels"):
        write_split(tmp_path, "train", rows)
    assert not list(tmp_path.iterdir())
    table = pa.Table.from_pylist([{**r, "image": {"bytes": png(r["image"]), "path": None}} for r in rows])
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"votes of row 'p\d' .*one share for each of its 3 labels"):
        load_split(tmp_path, "train")


def test_a_column_of_that_name_that_holds_something_else_is_ignored(tmp_path):
    table = pa.Table.from_pylist([{**row(0), "image": {"bytes": png(row(0)["image"]), "path": None}, "votes": 7}])
    pq.write_table(table, tmp_path / "train.parquet")
    assert "votes" not in load_split(tmp_path, "train").column_names
    assert content_hash(tmp_path, "train")
