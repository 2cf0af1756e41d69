"""The stages that `survive.py` kills, each a recipe on a model of 0.1 M parameters, with what it starts from."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

LABELS = ("awe", "fear")
# A random model earns none of the paper's rewards, so without this one it would learn nothing, killed or not
REWARD = """
def vary(completions, **columns):
    return [sum(map(ord, completion[-1]["content"])) % 7 / 7 for completion in completions]
"""
COMMON = ["--dtype", "float32", "--disable_tqdm", "true", "--report_to", "none", "--learning_rate", "0.001"]
COMMON += ["--model_name_or_path", "model", "--data", "data", "--save_total_limit", "2", "--processes"]
GRPO = ["--per_device_train_batch_size", "4", "--num_generations", "4", "--max_completion_length", "12"]
GRPO += ["--rewards", "own.py:vary", "--reward_weights", "1"]
EVALUATE = ["--data", "data", "--splits", "train", "test", "--engine", "transformers", "--dtype", "float32"]
RUN = ["--output_dir", "run"]


@dataclass(frozen=True)
class Stage:
    """A recipe, and how it is started.

    Args:
        title: its name in the table.
        needs: what of the inputs is copied to where it runs.
        arguments: after the interpreter.
    """

    title: str
    needs: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def is_launched(self) -> bool:
        """Whether torchrun stands between."""
        return "torch.distributed.run" in self.arguments

    def list_command(self) -> list[str]:
        """Return the command, to be run in a folder of its own."""
        return [sys.executable, *self.arguments]


def _recipe(name: str, *arguments: str, processes: int = 1) -> tuple[str, ...]:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    return (*(launcher if processes > 1 else ()), str(ROOT / "recipes" / f"{name}.py"), *arguments)


def _config(name: str) -> tuple[str, str]:
    return ("--config", str(ROOT / "recipes" / "configs" / "demo" / f"{name}.yaml"))


STAGES = {
    "prepare": Stage(
        "prepare",
        ("photos",),
        _recipe("prepare_data", "--dataset", "own", "--source", "photos", "--label_space", "emoset_8",
                "--output_dir", "prepared", "--workers", "1"),
    ),
    "cold_start": Stage(
        "cold start",
        ("model", "data"),
        _recipe("cold_start", *_config("cold_start"), *COMMON, "1", *RUN, "--per_device_train_batch_size", "2",
                "--num_samples", "6", "--max_steps", "60", "--save_strategy", "steps", "--save_steps", "6",
                "--probe_samples", "2", "--probe_max_tokens", "4", "--eval_split", "train"),
    ),
    "grpo": Stage(
        "GRPO, one rank (vLLM)",
        ("model", "data", "own.py"),
        _recipe("grpo", *_config("emo_r3"), *COMMON, "1", *RUN, *GRPO, "--max_steps", "16", "--save_steps", "2",
                "--validation_splits", "test", "--validation_steps", "4"),
    ),
    "grpo_two_ranks": Stage(
        "GRPO, two ranks (gloo)",
        ("model", "data", "own.py"),
        _recipe("grpo", *_config("emo_r3"), *COMMON, "2", *RUN, *GRPO, "--max_steps", "6", "--save_steps", "1",
                "--use_vllm", "false", processes=2),
    ),
    "evaluate": Stage(
        "evaluate",
        ("model", "lora", "data"),
        _recipe("evaluate", *EVALUATE, "--model", "base=model", "lora=lora", "--sampled", "2", "--batch_size", "1",
                "--max_tokens", "32", "--output_dir", "evaluation"),
    ),
    "reproduce": Stage(
        "reproduce",
        ("grid",),
        _recipe("reproduce", "--scale", "configs/tiny/reproduce.yaml", "--table", "3", "--seeds", "1",
                "--systems", "emo_r3_g8", "consistency_g8"),
    ),
    "export": Stage(
        "export (LoRA is merged)",
        ("model", "lora", "data", "evaluation"),
        _recipe("export", "--model", "lora", "--output_dir", "out/exported", "--evaluation", "evaluation/lora"),
    ),
}  # fmt: skip


def copy_inputs(stage: Stage, inputs: Path, folder: Path) -> None:
    """Copy what a stage needs to the folder in which it will run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in stage.needs:
        source, target = inputs / name, folder / name
        if name == "grid":  # its settings name places from where the command runs
            shutil.copytree(source, folder, dirs_exist_ok=True)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def build_inputs(folder: Path, stages: list[str], photos: int, run: Callable[[list[str], Path], None]) -> None:
    """Make what the stages start from: pictures, a model, data, a LoRA run and its evaluation, a small grid.

    Args:
        folder: where to; what is there already is kept.
        stages: names of the stages.
        photos: how many there are to prepare.
        run: runs a command in a folder, and raises if it fails.
    """
    from tiny_model import build_tiny_model, tiny_pictures

    folder.mkdir(parents=True, exist_ok=True)
    needs = {name for stage in stages for name in STAGES[stage].needs}
    if "photos" in needs and not (folder / "photos").exists():
        _draw_photos(folder / "photos", photos)
    if needs <= {"photos"}:
        return
    if not (folder / "model").exists():
        build_tiny_model(folder / "model")
        _write_data(folder / "data", tiny_pictures(8))
        (folder / "own.py").write_text(REWARD)
    if "grid" in needs and not (folder / "grid").exists():
        _write_grid(folder / "grid", folder / "model")
    if "lora" in needs and not (folder / "lora" / "metrics.json").exists():
        recipe, settings = ROOT / "recipes" / "grpo.py", [*_config("emo_r3"), *COMMON, "1", *GRPO]
        lora = ["--use_peft", "true", "--lora_dropout", "0", "--lora_target_modules", "all-linear", "--use_vllm"]
        lora += ["false", "--freeze_vision_tower", "false", "--max_steps", "2", "--save_strategy", "no"]
        run([sys.executable, str(recipe), *settings, *lora, "--output_dir", "lora"], folder)
    if "evaluation" in needs and not (folder / "evaluation" / "lora" / "metrics.json").exists():
        recipe, settings = ROOT / "recipes" / "evaluate.py", ["--max_tokens", "8", "--output_dir", "evaluation"]
        run([sys.executable, str(recipe), *EVALUATE, "--model", "lora=lora", *settings], folder)


def _draw_photos(folder: Path, count: int) -> None:
    """Write noisy photos of 0.8 megapixels in folders named after their emotions: seconds of work."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("awe", "fear", "anger", "sadness")[number % 4]
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(generator.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        small.resize((1024, 768), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)


def _write_data(folder: Path, pictures: list) -> None:
    from emor3_trl.data import write_split

    for split in ("train", "test"):
        rows = [
            {"id": f"{split}-{place}", "image": picture, "emotion": LABELS[place % 2], "label_space": list(LABELS),
             "source": "made"}
            for place, picture in enumerate(pictures)
        ]  # fmt: skip
        write_split(folder, split, rows)


def _write_grid(folder: Path, model: Path) -> None:
    from small_grid import write_scale

    folder.mkdir()
    (folder / "own.py").write_text(REWARD)
    rewards = {"rewards": ["own.py:vary"], "reward_weights": [1.0]}
    write_scale(folder, model, settings={"grpo": {"validation_steps": 2, **rewards}})


def run_command(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command to its end; raise with the end of what it said if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        said = done.stdout[-800:] + done.stderr[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
