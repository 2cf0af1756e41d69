"""A scale of the grid: which models, data and configurations stand for the paper's, in one YAML."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import check_model_path
from emor3_trl.data import count_rows
from emor3_trl.files import read_mapping
from emor3_trl.reproduce.paper import PAPER_DATASETS
from emor3_trl.reproduce.systems import STAGES, SYSTEMS, System


@dataclass(frozen=True)
class Scale:
    """What `recipes/configs/<scale>/reproduce.yaml` holds.

    Args:
        name: the name of its folder.
        folder: where the YAML lies, and the configurations that it names.
        data: folder of prepared data by data set.
        stands_for: the paper's data set by ours.
        train_on: the data sets of Table 1's two trainings; the other tables train on the first.
        splits: `train`, `validation` and `test`.
        prepare: the command that makes the data, for messages.
        models: base model by family, `qwen` and `llava`; null where the scale has none.
        configs: a YAML of a whole run by kind of training, `cold_start`, `sft`, `grpo`; `{train}` in its name stands
            for the training set.
        settings: fields of these that the grid sets, by kind; they do not tell systems apart.
        group_sizes: fields that go with a group size, by G.
        evaluation: fields of recipes/evaluate.py.
        seconds: how long a command takes, by kind, until it has been measured.
        devices: what a run takes: `kind` and `count`.
        accelerate: the file that `accelerate launch` starts a training with; null for one process.
        beyond_on: the data sets that Table 4 trains on, which the command names and the YAML does not; by default the
            first of `train_on`.
    """

    name: str
    folder: Path
    data: Mapping[str, str]
    stands_for: Mapping[str, str]
    train_on: list[str]
    splits: Mapping[str, str]
    prepare: str
    models: Mapping[str, str | None]
    configs: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]
    group_sizes: Mapping[int, Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    seconds: Mapping[str, float]
    devices: Mapping[str, Any]
    accelerate: str | None = None
    beyond_on: tuple[str, ...] = ()

    def offers(self, system: System) -> bool:
        """Return whether the scale has the base model that a system stands on."""
        return bool(self.models.get(system.family))

    def list_trainings(self, table: int) -> list[str]:
        """Return the data sets that the rows of a table train on: Table 1 has all trainings, the others the first."""
        if table == 4 and self.beyond_on:
            return list(self.beyond_on)
        return self.train_on if table == 1 else self.train_on[:1]

    def move_table_4(self, names: Sequence[str]) -> "Scale":
        """Return the scale with Table 4 trained on some data sets, each by itself.

        Raises:
            ValueError: for a name that is no data set, or that no configuration trains on.
        """
        fitting = [name for name in self.data if self.find_config("grpo", name).is_file()]
        wrong = [name for name in names if name not in fitting]
        if wrong:
            raise ValueError(
                f"--train_on names {', '.join(wrong)}. Expected some of {', '.join(fitting)}: scale '{self.name}' has "
                "data and a configuration for these."
            )
        return replace(self, beyond_on=tuple(dict.fromkeys(names)))

    def find_config(self, stage: str, train: str) -> Path:
        """Return the YAML of a kind of training on a data set."""
        return self.folder / self.configs.get(stage, "").replace("{train}", train)

    def read_config(self, stage: str, train: str) -> dict[str, Any]:
        """Return the configuration of a kind of training, as its YAML and the grid's settings give it."""
        config = read_mapping(self.find_config(stage, train), "Mend it, or restore it from the repository.")
        return {**config, **self.settings.get(stage, {})}

    def count_train_rows(self, train: str) -> int | None:
        """Return the rows of a training split; None where it is not prepared yet."""
        try:
            return count_rows(self.data[train], self.splits["train"])
        except FileNotFoundError:
            return None

    def check_prepared(self) -> None:
        """Check that every split, base model and launch file is there.

        Raises:
            FileNotFoundError: naming what is not, and the command that makes it.
            ValueError: if a model's weights are not whole.
        """
        for name, folder in self.data.items():
            trained = name in self.train_on or name in self.beyond_on
            kinds = ("train", "validation", "test") if trained else ("validation", "test")
            for kind in kinds:
                path = Path(folder) / f"{self.splits[kind]}.parquet"
                if not path.is_file():
                    raise FileNotFoundError(f"The data of '{name}' is not there: '{path}'. Make it: {self.prepare}")
        for model in filter(None, self.models.values()):
            check_model_path(model)
        if self.accelerate and not Path(self.accelerate).is_file():
            raise FileNotFoundError(
                f"The launch file '{self.accelerate}' of scale '{self.name}' is not there. Start the command where it "
                "is: in the repository's folder."
            )


def find_scale(name: str, configs: Path) -> Path:
    """Return the YAML of a scale.

    Args:
        name: the name of a folder of `configs`, or the path of a YAML.
        configs: the folder of configurations.

    Raises:
        FileNotFoundError: naming the scales that there are.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else configs / name / "reproduce.yaml"
    if not path.is_file():
        known = sorted(file.parent.name for file in configs.glob("*/reproduce.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise FileNotFoundError(
            f"There is no scale '{name}'.{hint} Expected {', '.join(known)}, or the path of a reproduce.yaml."
        )
    return path


def read_scale(path: Path) -> Scale:
    """Read the YAML of a scale.

    Raises:
        ValueError: for a key that is missing, unknown, or names what is not there.
    """
    values = read_mapping(path, "Compare it with recipes/configs/demo/reproduce.yaml.")
    known = {option.name for option in fields(Scale)} - {"name", "folder", "beyond_on"}
    faulty = sorted(set(values) - known) or sorted(known - {"accelerate"} - set(values))
    if faulty:
        what = "does not know" if set(values) - known else "lacks"
        raise ValueError(f"'{path}' {what} {', '.join(map(str, faulty))}. Expected {', '.join(sorted(known))}.")
    misshapen = [key for key, value in values.items() if not _has_shape(key, value)]
    if misshapen:
        raise ValueError(
            f"'{path}' has another shape than expected at {', '.join(misshapen)}. Compare it with "
            "recipes/configs/demo/reproduce.yaml: train_on is a list, the keys of group_sizes and devices: count are "
            "whole numbers, seconds are numbers, paths and commands are text, the rest are keys with values."
        )
    scale = Scale(path.resolve().parent.name, path.parent, **values)
    sizes = {system.group_size for system in SYSTEMS.values() if system.group_size}
    wrong = ["group_sizes"] if set(scale.group_sizes) - sizes else []
    wrong += [name for name in scale.train_on if name not in scale.data]
    wrong += [name for name in scale.data if scale.stands_for.get(name) not in PAPER_DATASETS]
    trainings = [(stage, train) for stage in STAGES for train in scale.train_on]
    wrong += [stage for stage, train in trainings if not scale.find_config(stage, train).is_file()]
    wrong += [kind for kind in ("train", "validation", "test") if kind not in scale.splits]
    wrong += [stage for stage in (*STAGES, "evaluation") if stage not in scale.seconds]
    if wrong or not scale.train_on:
        raise ValueError(
            f"'{path}' does not fit together at {', '.join(dict.fromkeys(wrong)) or 'train_on'}: train_on names data, "
            "stands_for names the paper's, configs are files beside it, splits and seconds are complete, group_sizes "
            f"are of {', '.join(map(str, sorted(sizes)))}."
        )
    return scale


def _has_shape(key: str, value: Any) -> bool:
    """Return whether a value of the YAML is of the kind that `Scale` says: a list, a mapping, or text."""
    if key == "train_on":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key in ("prepare", "accelerate"):
        return isinstance(value, str) or (key == "accelerate" and value is None)
    if not isinstance(value, dict):
        return False
    match key:
        case "data" | "stands_for" | "splits" | "configs":
            return all(isinstance(text, str) for text in value.values())
        case "settings":
            return all(isinstance(part, dict) for part in value.values())
        case "group_sizes":
            return all(isinstance(size, int) and isinstance(part, dict) for size, part in value.items())
        case "seconds":
            return all(isinstance(number, (int, float)) for number in value.values())
        case "devices":
            return isinstance(value.get("count"), int) and value["count"] > 0 and isinstance(value.get("kind"), str)
    return True
