"""A scale is a file: which there are, and what is said of one that is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_grid import SCALE, write_scale

from emor3_trl.reproduce.scales import find_scale, read_scale

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/reproduce.yaml")), ids=lambda path: path.parent.name)
def test_the_scales_that_there_are_can_be_read(path: Path) -> None:
    scale = read_scale(path)
    assert scale.name == path.parent.name
    assert list(scale.stands_for.values()) == ["emoset", "emotion6", "webemo"]
    assert len(scale.train_on) == 2


def test_a_scale_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no scale 'deom'\. Did you mean 'demo'\? Expected demo, qwen2_5_vl_3b"
    ):
        find_scale("deom", CONFIGS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"colour": 1}, "does not know colour", id="unknown key"),
        pytest.param({"data": None}, "lacks data", id="missing key"),
        pytest.param({"train_on": ["photos"]}, "does not fit together at photos", id="training set without data"),
        pytest.param({"train_on": []}, "does not fit together at train_on", id="nothing to train on"),
        pytest.param({"stands_for": {}}, "does not fit together at sketches, toons, emoji", id="no counterparts"),
        pytest.param({"configs": {"sft": "no.yaml"}}, "does not fit together at cold_start, sft, grpo", id="no files"),
        pytest.param({"data": ["a", "b"]}, "another shape than expected at data", id="a list of data"),
        pytest.param({"train_on": "sketches"}, "another shape than expected at train_on", id="one name, no list"),
        pytest.param({"group_sizes": {"4": {}}}, "another shape than expected at group_sizes", id="G as text"),
        pytest.param({"group_sizes": {16: {}}}, "fit together at group_sizes", id="a G that no system has"),
        pytest.param({"devices": {"kind": "GPU"}}, "another shape than expected at devices", id="no count"),
        pytest.param({"seconds": {"grpo": "long"}}, "another shape than expected at seconds", id="time in words"),
        pytest.param({"settings": {"grpo": 3}}, "another shape than expected at settings", id="no fields"),
        pytest.param({"splits": {"train": 1}}, "another shape than expected at splits", id="a number for a name"),
        pytest.param({"seconds": {}}, "at cold_start, sft, grpo, evaluation", id="no times"),
    ],
)
def test_a_scale_that_is_wrong_is_refused(tmp_path: Path, changes: dict, expected: str) -> None:
    write_scale(tmp_path)
    path = tmp_path / "configs" / "tiny" / "reproduce.yaml"
    values = {key: value for key, value in {**SCALE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(ValueError, match=expected):
        read_scale(path)


def test_what_is_not_prepared_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scale = write_scale(tmp_path)
    scale.check_prepared()
    (tmp_path / "data" / "emoji" / "train.parquet").unlink()  # nothing trains on it
    scale.check_prepared()
    with pytest.raises(FileNotFoundError, match=r"launch file 'no\.yaml' of scale 'tiny' is not there"):
        replace(scale, accelerate="no.yaml").check_prepared()
    (tmp_path / "data" / "emoji" / "test.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"'emoji' is not there: 'data/emoji/test\.parquet'\. Make it: make it"):
        scale.check_prepared()
