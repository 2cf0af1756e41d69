"""A model that cannot be used, given to each recipe that uses one: one line, exit code 2, nothing written."""

import json
from pathlib import Path

import pytest
from recipe_commands import RecipeRunner
from tiny_model import tiny_pictures

RECIPES = {
    "predict": ["photo.png", "--label_space", "joy,anger", "--output_dir", "out"],
    "app": ["--label_space", "joy,anger", "--port", "0"],
    "export": ["--output_dir", "out"],
}
FAULTS = {
    "nowhere": "nowhere",
    "photos": "lacks",
    "cut": "is not whole",
    "adapter": "It is the base of the adapter 'adapter': set --base_model",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A folder with a picture, and folders that hold pictures, half a model, and an adapter whose base is gone."""
    folder = tmp_path_factory.mktemp("faults")
    for name in ("photos", "cut", "adapter"):
        (folder / name).mkdir()
        (folder / name / "metrics.json").write_text("{}")  # of a run that says it is finished
    for picture in (folder / "photo.png", folder / "photos" / "photo.png"):
        tiny_pictures(1)[0].save(picture)
    for file in tiny_model_dir.iterdir():
        (folder / "cut" / file.name).write_bytes(file.read_bytes()[: 900 if file.suffix == ".safetensors" else None])
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "runs/gone"}))
    weights = (tiny_model_dir / "model.safetensors").read_bytes()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("model", FAULTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_that_cannot_be_used_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, recipe: str, model: str
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    refused = RecipeRunner(recipe, monkeypatch, capsys)(place, *RECIPES[recipe], "--model", model)
    assert refused.returncode == 2
    assert FAULTS[model] in refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert "Traceback" not in refused.stderr
    assert not (place / "out").exists()
