"""A data set is data: no script beside it, no tag of a YAML, no type of a Parquet file runs, and no path leads out."""

import os
import pickle
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from downloads import save
from hostile import CODE, Payload
from recipe_commands import RecipeRunner

from emor3_trl.data import load_split
from emor3_trl.data.sources import hub, own
from emor3_trl.data.sources.candidates import Unusable
from emor3_trl.data.sources.label_space import read_label_space
from emor3_trl.emotions import EMOSET_8
from emor3_trl.evaluation.prediction import load_predictions
from emor3_trl.files import read_mapping
from emor3_trl.report.rollouts import load_training_runs

TAGS = [
    "!!python/object/apply:os.mkdir [{mark}]",
    "!!python/object/new:os.mkdir [{mark}]",
    "!!python/name:os.mkdir",
    "!!python/module:mine",
]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What hostile code makes."""
    return tmp_path / "it_ran"


def write_hostile_parquet(file: Path, mark: Path) -> Path:
    """Write a table whose columns claim an extension type that older versions of pyarrow unpickle."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    names = ("image", "emotion", "label_space", "id", "dataset", "completion", "step")
    fields = [pa.field(name, pa.string(), metadata=metadata) for name in names]
    schema = pa.schema(fields, metadata={b"huggingface": b'{"info": {"features": {"image": {"_type": "Mine"}}}}'})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([["x"]] * len(names), schema=schema), file, store_schema=True)
    return file


def test_no_type_of_a_parquet_file_runs(tmp_path: Path, mark: Path) -> None:
    file = write_hostile_parquet(tmp_path / "train.parquet", mark)
    readers = {
        "prepared": lambda: load_split(tmp_path, "train"),
        "own": lambda: own.list_candidates(file),
        "hub": lambda: hub.list_candidates(str(file), EMOSET_8),
        "predictions": lambda: load_predictions(file),
    }
    for read in readers.values():
        with suppress(ValueError, LookupError, OSError):
            read()
        assert not mark.exists()
    write_hostile_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet", mark)
    (tmp_path / "run" / "config.yaml").write_text("num_generations: 2\n")
    with suppress(ValueError, LookupError, TypeError):
        load_training_runs([tmp_path / "run"])
    assert not mark.exists()


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_of_a_yaml_runs(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tag: str
) -> None:
    (tmp_path / "mine.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "space.yaml"
    file.write_text(f"name: {tag.format(mark=mark)}\nlabels: [joy, fear]\n")
    with pytest.raises(ValueError, match=r"space\.yaml"):
        read_label_space(file)
    with pytest.raises(ValueError, match=r"space\.yaml"):
        read_mapping(file, "Write it again.")
    refused = RecipeRunner("grpo", monkeypatch, capsys)(tmp_path, "--config", str(file))
    assert refused.returncode == 2
    assert "is not valid YAML" in refused.stderr
    assert not mark.exists()


def test_no_script_beside_a_data_set_runs(tmp_path: Path, mark: Path) -> None:
    """`datasets` ran the script that was called like its folder, up to version 3."""
    folder = tmp_path / "photos"
    for number, emotion in enumerate(["joy", "fear"]):
        save(folder / emotion / "a.jpg", number)
    for name in ("photos.py", "dataset.py", "__init__.py"):
        (folder / name).write_text(CODE.format(mark=str(mark)))
    for name in ("state.json", "dataset_info.json"):  # as of a data set that was saved to a disk
        (folder / name).write_text('{"_data_files": [{"filename": "../secret.arrow"}], "_format_type": "mine"}')
    (folder / "cache.pkl").write_bytes(pickle.dumps(Payload(mark)))
    (folder / "labels.npy").write_bytes(pickle.dumps(Payload(mark)))
    for read in (lambda: hub.list_candidates(str(folder), EMOSET_8), lambda: own.list_candidates(folder)):
        with suppress(ValueError, OSError, LookupError):
            read()
        assert not mark.exists()


@pytest.mark.parametrize("place", ["../secret.jpg", "{root}/secret.jpg", "..%2fsecret.jpg", "in/../../secret.jpg",
                                   "file://{root}/secret.jpg", "link.jpg", "linked/secret.jpg"])  # fmt: skip
def test_no_path_of_a_table_leads_out(tmp_path: Path, place: str) -> None:
    save(tmp_path / "secret.jpg", 9)
    table = tmp_path / "table"
    for number in range(4):
        save(table / f"{number}.jpg", number)
    os.symlink(tmp_path / "secret.jpg", table / "link.jpg")
    os.symlink(tmp_path, table / "linked")
    rows = [f"{number}.jpg,{'joy' if number % 2 else 'fear'}" for number in range(4)]
    (table / "t.csv").write_text("\n".join(["image,emotion", *rows, f"{place.format(root=tmp_path)},joy", ""]))
    source = own.list_candidates(table / "t.csv")
    shown, refused = [], []
    for candidate in source.pools["all"]:
        try:
            source.images.read_image(candidate.place)
            shown.append(candidate.place)
        except Unusable as error:
            refused.append(str(error))
    assert sorted(shown) == [f"{number}.jpg" for number in range(4)]
    assert len(refused) == 1
