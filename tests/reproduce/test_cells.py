"""Which runs a table needs, each once and after what it starts from; and when a run counts as finished."""

from pathlib import Path

import pytest
from small_grid import finish_cell, write_scale

from emor3_trl.reproduce.cells import Cell, build_cell, list_cells
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS


@pytest.fixture
def scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    monkeypatch.chdir(tmp_path)
    return write_scale(tmp_path)


def list_folders(cells: list[Cell]) -> list[str]:
    return [cell.folder.as_posix() for cell in cells]


def test_a_run_of_several_tables_is_listed_once(scale: Scale) -> None:
    alone = [set(list_folders(list_cells(scale, [number], 2, Path("runs")))) for number in (1, 2, 3)]
    together = list_folders(list_cells(scale, [1, 2, 3], 2, Path("runs")))
    assert len(together) == len(set(together))
    assert set(together) == set.union(*alone)
    assert "runs/tiny/sketches/emo_r3_g8/seed2" in set.intersection(*alone)


def test_table_1_trains_on_both_sets_and_the_others_on_the_first(scale: Scale) -> None:
    trained = {number: {cell.train for cell in list_cells(scale, [number], 1, Path("runs"))} for number in (1, 2, 3)}
    assert trained == {1: {None, "sketches", "toons"}, 2: {"sketches"}, 3: {"sketches"}}


def test_a_model_as_it_is_runs_once_whatever_the_seeds(scale: Scale) -> None:
    folders = list_folders(list_cells(scale, [1], 3, Path("runs")))
    assert [folder for folder in folders if "vanilla_set" in folder] == ["runs/tiny/untrained/vanilla_set/seed1"]


def test_what_a_run_starts_from_is_listed_before_it(scale: Scale) -> None:
    cells = list_cells(scale, [2], 2, Path("runs"), ["emo_r3_cold_start_g8"])
    assert list_folders(cells) == [
        f"runs/tiny/sketches/{name}/seed{seed}" for seed in (1, 2) for name in ("cold_start", "emo_r3_cold_start_g8")
    ]
    for cold_start, after in (cells[:2], cells[2:]):
        assert after.needs == cold_start
        assert after.commands[0].values["model_name_or_path"] == str(cold_start.folder / "model")


def test_systems_without_a_base_model_are_left_out(scale: Scale) -> None:
    assert not [cell for cell in list_cells(scale, [1], 1, Path("runs")) if cell.system.family == "llava"]


def test_validation_starts_with_the_set_that_is_trained_on(scale: Scale) -> None:
    cell = build_cell(scale, SYSTEMS["grpo_g4"], "toons", 1, Path("runs"))
    values = cell.commands[0].values
    assert values["validation_splits"] == ["data/toons/validation", "data/sketches/validation", "data/emoji/validation"]
    assert (values["num_generations"], values["per_device_train_batch_size"]) == (4, 4)
    assert cell.commands[1].values["in_domain"] == ["toons"]


def finish(cell: Cell, exit_code: int = 0) -> None:
    for command in cell.commands:
        command.finished.parent.mkdir(parents=True, exist_ok=True)
        command.finished.write_text("{}")
    finish_cell(cell, exit_code)


def test_a_cell_is_finished_while_settings_weights_and_data_are_the_same(scale: Scale, tmp_path: Path) -> None:
    cells = list_cells(scale, [2], 1, Path("runs"), ["emo_r3_cold_start_g8"])
    cell = cells[1]
    assert not cell.is_finished()
    finish(cell, exit_code=1)
    assert not cell.is_finished(), "its last command failed"
    finish(cell)
    assert cell.is_finished()
    (tmp_path / "data" / "sketches" / "train.parquet").write_bytes(b"other data")
    assert not cell.is_finished()
    finish(cell)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights under the cold start")
    assert not cell.is_finished()
    finish(cell)
    changed = write_scale(tmp_path, settings={"cold_start": {"learning_rate": 1.0}, "grpo": {"validation_steps": 2}})
    assert not list_cells(changed, [2], 1, Path("runs"), ["emo_r3_cold_start_g8"])[1].is_finished()


def test_a_cell_is_finished_wherever_it_lies(scale: Scale, tmp_path: Path) -> None:
    names = ["emo_r3_cold_start_g8", "sft"]
    for cell in list_cells(scale, [2], 1, Path("runs"), names):
        finish(cell)
    assert all(cell.is_finished() for cell in list_cells(scale, [2], 1, tmp_path / "runs", names))
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert all(cell.is_finished() for cell in list_cells(scale, [2], 1, Path("moved"), names))


def test_other_weights_of_a_trained_model_are_evaluated_anew(scale: Scale) -> None:
    """The model was trained again in its folder; both its own evaluation and what starts from it are stale."""
    cold_start, after = list_cells(scale, [2], 1, Path("runs"), ["emo_r3_cold_start_g8"])
    for cell in (cold_start, after):
        (cell.folder / "model").mkdir(parents=True)
        (cell.folder / "model" / "model.safetensors").write_bytes(b"trained")
        finish(cell)
    assert cold_start.is_finished()
    assert after.is_finished()
    (cold_start.folder / "model" / "model.safetensors").write_bytes(b"trained again")
    assert [command.kind for command in cold_start.list_waiting()] == ["evaluation"]
    assert [command.kind for command in after.list_waiting()] == ["grpo", "evaluation"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        pytest.param("sketches/train", ["grpo", "evaluation"], id="training"),
        pytest.param("toons/validation", ["grpo", "evaluation"], id="a curve of Fig. 3"),
        pytest.param("toons/test", ["evaluation"], id="test"),
        pytest.param("toons/train", [], id="another training"),
        pytest.param("sketches/notes", [], id="a file that nothing reads"),
    ],
)
def test_what_a_command_reads_decides_what_is_run_anew(scale: Scale, split: str, expected: list[str]) -> None:
    cell = build_cell(scale, SYSTEMS["grpo_g8"], "sketches", 1, Path("runs/cell"))
    finish(cell)
    Path(f"data/{split}.parquet").write_bytes(b"other")
    assert [command.kind for command in cell.list_waiting()] == expected


def test_a_damaged_record_is_no_finished_cell(scale: Scale) -> None:
    cell = build_cell(scale, SYSTEMS["vanilla_set"], None, 1, Path("runs/vanilla"))
    finish(cell)
    assert cell.is_finished()
    (cell.folder / "cell.json").write_text("{ half")
    assert not cell.is_finished()
