"""A scale of the grid on the tiny model, and stand-ins for the recipes that take no time."""

import shutil
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file
from tiny_model import tiny_pictures

from emor3_trl.data import write_split
from emor3_trl.reproduce.cells import Cell
from emor3_trl.reproduce.scales import Scale, read_scale

DATASETS = {"sketches": "emoset", "toons": "emotion6", "emoji": "webemo"}
LABELS = {"sketches": ["awe", "fear"], "toons": ["joy", "anger"], "emoji": ["love", "joy"]}
SPLITS = {"train": 4, "validation": 2, "test": 4}
COMMON = {
    "model_name_or_path": "elsewhere", "dtype": "float32", "bf16": False, "use_cpu": True, "data": "elsewhere",
    "output_dir": "elsewhere", "learning_rate": 1e-3, "seed": 1, "report_to": "none", "disable_tqdm": True,
    "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1, "processes": 1,
}  # fmt: skip
CONFIGS = {
    "grpo.yaml": {
        **COMMON, "prompt_style": "set", "lambda1": 0.1, "num_generations": 8, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1, "max_steps": 4, "max_completion_length": 8, "use_vllm": False, "beta": 0.0,
    },
    "sft.yaml": {
        **COMMON, "num_samples": None, "eval_split": "validation", "probe_samples": 2, "probe_max_tokens": 4,
        "per_device_train_batch_size": 2, "num_train_epochs": 1,
    },
}  # fmt: skip
CONFIGS["cold_start.yaml"] = {**CONFIGS["sft.yaml"], "num_samples": 2}
SCALE = {
    "data": {name: f"data/{name}" for name in DATASETS},
    "stands_for": DATASETS,
    "train_on": ["sketches", "toons"],
    "splits": {name: name for name in SPLITS},
    "prepare": "make it",
    "models": {"qwen": "model", "llava": None},
    "configs": {"cold_start": "cold_start.yaml", "sft": "sft.yaml", "grpo": "grpo.yaml"},
    "settings": {"grpo": {"validation_steps": 2}},
    "group_sizes": {4: {"per_device_train_batch_size": 4}, 8: {}},
    "evaluation": {"max_tokens": 8, "dtype": "float32", "engine": "transformers", "reflect": False,
                   "label_probabilities": False},
    "seconds": {"cold_start": 10, "sft": 20, "grpo": 80, "evaluation": 5},
    "devices": {"kind": "CPU core", "count": 2},
}  # fmt: skip

# A training, and an evaluation that is right about the first `right` pictures of each set: by system, else by seed
_TRAINING = """
import json, os, pathlib, sys, time, yaml
values = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))
folder = pathlib.Path(values["output_dir"])
with open("calls.txt", "a") as calls:
    calls.write(f"train {folder}{' overwrite' if '--overwrite' in sys.argv else ''}\\n")
if os.environ.get("FAIL", "nothing") in str(folder):
    print("one line of the log", flush=True)
    sys.exit("it broke")
folder.mkdir(parents=True, exist_ok=True)
steps = folder / "steps.txt"
for step in range(len(steps.read_text().split()) if steps.is_file() else 0, 4):  # resumes
    time.sleep(float(os.environ.get("PAUSE", 0)))
    with steps.open("a") as file:
        file.write(f"{step}\\n")
log = [{"step": step + 1, "rewards/accuracy_reward/mean": step / 4, "rollout/completions": 8.0, "step_time": 2.0,
        "rollout/seconds": 1.0, "reflection/seconds": 0.25} for step in range(4)]
(folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
(folder / "model.safetensors").write_bytes(b"trained " + steps.read_bytes())
(folder / "metrics.json").write_text("{}")
"""
_EVALUATION = """
import json, os, pathlib, sys, yaml
import pyarrow as pa, pyarrow.parquet as pq
values = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))
name, _, model = values["models"][0].partition("=")
folder = pathlib.Path(values["output_dir"]) / name
with open("calls.txt", "a") as calls:
    calls.write(f"evaluate {folder}{' overwrite' if '--overwrite' in sys.argv else ''}\\n")
right = json.loads(pathlib.Path("right.json").read_text()).get(name, 2)
rows, metrics = [], {}
for split in values["splits"]:
    dataset = split.partition("=")[0]
    for index in range(4):
        rows.append({"id": f"{dataset}-{index}", "dataset": dataset, "emotion": "joy", "label_space": ["joy", "fear"],
                     "completion": f"<think>It is <b>$x_1$</b> {index}.</think>", "trigger": None, "feeling": None,
                     "conclusion": None, "answer": "joy" if index < right else "fear", "well_formed": True,
                     "correct": index < right})
    metrics[f"eval/{dataset}/accuracy"] = right / 4
folder.mkdir(parents=True, exist_ok=True)
pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
(folder / "metrics.json").write_text(json.dumps(metrics))
"""
_JUDGING = """
import json, pathlib, sys, yaml
values = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))
folder = pathlib.Path(values["output_dir"])
with open("calls.txt", "a") as calls:
    calls.write(f"judge {folder}\\n")
assert pathlib.Path(values["predictions"]).is_file()
figures = {"pictures": 4, "yes": 0.75, "shuffled_yes": 0.25, "coherence": 1.0, "masked_coherence": 0.5}
(folder / "metrics.json").write_text(json.dumps(figures))
"""


def write_scale(folder: Path, model: Path | None = None, **changes: object) -> Scale:
    """Write a scale `tiny`, its data and its model, and return it; commands run in `folder`.

    Args:
        folder: where to.
        model: the model to link to; by default a folder that no library could load.
        changes: keys of the scale.
    """
    place = folder / "configs" / "tiny"
    place.mkdir(parents=True, exist_ok=True)
    for name, values in {**CONFIGS, "reproduce.yaml": {**SCALE, **changes}}.items():
        (place / name).write_text(yaml.safe_dump(values, sort_keys=False))
    for name, labels in LABELS.items():
        for split, count in SPLITS.items():
            write_split(folder / "data" / name, split, [
                {"id": f"{name}-{i}", "image": image, "emotion": labels[i % 2], "label_space": labels, "source": "made"}
                for i, image in enumerate(tiny_pictures(count))
            ])  # fmt: skip
    if model is not None:
        shutil.copytree(model, folder / "model")
    else:
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "config.json").write_text("{}")
        save_file({"weight": np.zeros(1)}, folder / "model" / "model.safetensors")
    return read_scale(place / "reproduce.yaml")


def finish_cell(cell: Cell, exit_code: int = 0) -> None:
    """Note that the commands of a cell have ended; what they write is there."""
    runs = {
        command.kind: {"digest": cell.digest(command), "exit_code": exit_code, "seconds": 1}
        for command in cell.commands
    }
    cell.write_record({"commands": runs})


def write_stand_ins(folder: Path) -> Path:
    """Write recipes that do in a moment what a grid looks at, and return their folder."""
    recipes = folder / "recipes"
    recipes.mkdir(exist_ok=True)
    for name in ("grpo.py", "cold_start.py"):
        (recipes / name).write_text(_TRAINING)
    (recipes / "evaluate.py").write_text(_EVALUATION)
    (recipes / "judging.py").write_text(_JUDGING)
    (folder / "right.json").write_text("{}")
    return recipes
