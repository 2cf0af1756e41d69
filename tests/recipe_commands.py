"""Commands of the training recipes on the tiny model, as a user starts them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from forking import run_forked
from tiny_model import tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.run.recipe import run_recipe

ROOT = Path(__file__).parents[1]
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # set by earlier tests' trainers
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
COMMON = {"learning_rate": 0.001, "save_steps": 4, "save_total_limit": 2, "report_to": "none", "disable_tqdm": "true"}
GRPO = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12, "max_steps": 24}
COLD_START = {"per_device_train_batch_size": 2, "num_samples": 6, "max_steps": 60, "save_strategy": "steps"}
COLD_START |= {"probe_samples": 2, "probe_max_tokens": 4, "eval_split": "train"}
RECIPES = {
    "grpo": ("grpo.py", "emo_r3.yaml", COMMON | GRPO),
    "cold-start": ("cold_start.py", "cold_start.yaml", COMMON | COLD_START),
}


def command(folder: Path, run: str, model: Path, output: str, processes: int = 1) -> list[str]:
    """Write the data where it is not, and return the command of a recipe."""
    if not (folder / "data").exists():
        labels = ["awe", "fear"]
        write_split(folder / "data", "train", [
            {"id": str(i), "image": picture, "emotion": labels[i % 2], "label_space": labels, "source": "test"}
            for i, picture in enumerate(tiny_pictures(8))
        ])  # fmt: skip
    recipe, config, settings = RECIPES[run]
    settings |= {"data": folder / "data", "model_name_or_path": model, "output_dir": folder / output}
    settings |= {"processes": processes}
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    return [
        sys.executable, *launcher, str(ROOT / "recipes" / recipe),
        "--config", str(ROOT / "recipes" / "configs" / "demo" / config),
        *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
    ]  # fmt: skip


def finish(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    if arguments[1].endswith(".py"):
        done = run_forked(arguments, folder, ENVIRONMENT, timeout=500)
    else:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def load_recipe(recipe: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a recipe as a module."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe}", ROOT / "recipes" / f"{recipe}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class RecipeRunner:
    """Runs a recipe in this process, which has imported what takes a process of its own seconds."""

    def __init__(self, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.recipe, self.monkeypatch, self.capsys = recipe, monkeypatch, capsys

    def __call__(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
        """Run it in a folder, and return its exit code and what it printed."""
        with self.monkeypatch.context() as patch:
            module = load_recipe(self.recipe, patch)
            patch.chdir(folder)
            patch.setattr("sys.argv", [f"{self.recipe}.py", *arguments])
            self.capsys.readouterr()
            code: object = 0
            try:
                run_recipe(module.main)
            except SystemExit as end:
                code = end.code
        printed = self.capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code)), printed.out, printed.err)
