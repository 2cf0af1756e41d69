"""A model folder that is meant and not there is named before anything loads."""

from pathlib import Path

import pytest

from emor3_trl import checkpoints


@pytest.mark.parametrize("path", ["runs/nope", "./nope", "/nope/model", "nope"])
def test_missing_model_folder(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="--model_name_or_path"):
        checkpoints.check_model_path(path)


def test_model_folder_without_safe_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        checkpoints.check_model_path(str(tmp_path))


def test_name_on_the_hub_is_no_folder() -> None:
    checkpoints.check_model_path("Qwen/Qwen2.5-VL-3B-Instruct")
