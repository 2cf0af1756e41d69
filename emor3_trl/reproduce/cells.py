"""The cells of the grid: a system, what it trains on, a seed. Each is a list of recipes with a whole configuration."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import fingerprint
from emor3_trl.files import read_mapping, write_json
from emor3_trl.reproduce.scales import Scale
from emor3_trl.reproduce.systems import SYSTEMS, TABLES, System
from emor3_trl.run.folder import RESULTS

UNTRAINED = "untrained"  # the place of the training set in the folder of a model as it is
RECORD = "cell.json"
PLACES = frozenset({"output_dir", "model_name_or_path", "models", "predictions"})  # their content is compared
JUDGING = "judging"  # what follows a training of Table 4 and its evaluation
RECIPES = {"cold_start": "cold_start.py", "sft": "cold_start.py", "grpo": "grpo.py", "evaluation": "evaluate.py"}
RECIPES[JUDGING] = "judging.py"  # which nobody but the grid starts, so it stands in the package


@dataclass(frozen=True)
class Command:
    """A recipe with its whole configuration.

    Args:
        kind: `cold_start`, `sft`, `grpo`, `evaluation` or `judging`.
        values: what its YAML holds.
        finished: the file whose presence says that it has ended.
    """

    kind: str
    values: dict[str, Any]
    finished: Path

    def list_sources(self) -> list[str]:
        """Return the paths of the weights that it starts from, and of the splits and predictions that it reads."""
        values = self.values
        if self.kind in ("evaluation", JUDGING):
            models, splits = values["models"], values["splits"]
            places = [split.partition("=")[2] for split in splits]
            files = [*(f"{place}.parquet" for place in places), *filter(None, [values.get("predictions")])]
            return [*(model.partition("=")[2] for model in models), *files]
        splits = [f"{values['data']}/{values['train_split']}", *values.get("validation_splits", ())]
        splits += [f"{values['data']}/{values['eval_split']}"] if values.get("eval_split") else []
        return [values["model_name_or_path"], *(f"{split}.parquet" for split in splits)]

    def has_results(self) -> bool:
        """Return whether its folder holds something that a run has computed."""
        return any(path for pattern in RESULTS for path in self.finished.parent.glob(pattern))


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        system: what is run.
        train: the data set that it trains on; None for a model as it is.
        seed: its seed.
        folder: where all of it is written.
        commands: the recipes, in their order.
        needs: the cell whose model it starts from.
    """

    system: System
    train: str | None
    seed: int
    folder: Path
    commands: tuple[Command, ...]
    needs: "Cell | None" = None

    @property
    def title(self) -> str:
        """What people call it."""
        trained = f" on {self.train}, seed {self.seed}" if self.train else ""
        judged = ", judged by itself" if self.commands[0].kind == JUDGING else ""
        return f"{self.system.title}{trained}{judged}"

    @property
    def predictions(self) -> Path:
        """The file of its predictions."""
        return self.commands[-1].finished.parent / "predictions.parquet"

    def digest(self, command: Command | None = None) -> str:
        """Return what tells the run of a command from another: settings, weights and data, of what it builds on too.

        Where the run lies is no part of it, so a grid can be moved, and named by another path.

        Args:
            command: one of the cell's; by default the last, which builds on all.
        """
        content: list[Any] = [self.needs.digest(self.needs.commands[0])] if self.needs else []
        for part in self.commands:
            settings = {key: value for key, value in part.values.items() if key not in PLACES}
            content.append([part.kind, settings, [fingerprint(path) for path in part.list_sources()]])
            if part is command:
                break
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def read_record(self) -> dict[str, Any]:
        """Return what was noted of an earlier run; nothing if there is none, or its file is damaged."""
        try:
            return read_mapping(self.folder / RECORD, "") if (self.folder / RECORD).is_file() else {}
        except ValueError:
            return {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Write what is to be known of this run later, all or nothing."""
        write_json(self.folder / RECORD, record)

    def list_waiting(self) -> list[Command]:
        """Return the commands that have not been run, with these very settings, weights and data, to their end."""
        runs = self.read_record().get("commands", {})
        return [command for command in self.commands if not self._has_ended(command, runs.get(command.kind, {}))]

    def is_finished(self) -> bool:
        """Return whether it has been run, with these very settings, weights and data, to its end."""
        return not self.list_waiting()

    def _has_ended(self, command: Command, run: dict[str, Any]) -> bool:
        if run.get("exit_code") != 0 or not command.finished.is_file():
            return False
        return run.get("digest") == self.digest(command)


def list_cells(
    scale: Scale, tables: Sequence[int], seeds: int, output_dir: Path, names: Sequence[str] | None = None
) -> list[Cell]:
    """Return the cells of some tables, each once, seed by seed, one after that which it needs.

    Args:
        scale: the scale; systems whose base model it does not have are left out.
        tables: numbers of tables.
        seeds: how many; a model as it is, which is asked greedily, is run once.
        output_dir: the folder of grids.
        names: only these systems, and what they need.
    """
    cells: dict[Path, Cell] = {}
    for seed in range(1, seeds + 1):
        for system, train in list_rows(scale, tables, names):
            if train is not None or seed == 1:
                _add_cell(cells, scale, system, train, seed, output_dir)
    return list(cells.values())


def list_rows(
    scale: Scale, tables: Sequence[int], names: Sequence[str] | None = None
) -> list[tuple[System, str | None]]:
    """Return the systems of some tables with each data set that they train on, without repeats."""
    rows: dict[tuple[str, str | None], None] = {}
    for number in tables:
        trained = scale.list_trainings(number)
        for name in TABLES[number]:
            system = SYSTEMS[name]
            if scale.offers(system) and (names is None or name in names):
                rows |= dict.fromkeys([(name, train) for train in (trained if system.stage else [None])])
    return [(SYSTEMS[name], train) for name, train in rows]


def _add_cell(
    cells: dict[Path, Cell], scale: Scale, system: System, train: str | None, seed: int, output_dir: Path
) -> Cell:
    """Add a cell, and before it the one that it needs."""
    folder = output_dir / scale.name / (train or UNTRAINED) / system.name / f"seed{seed}"
    if folder not in cells:
        needs = _add_cell(cells, scale, SYSTEMS[system.start], train, seed, output_dir) if system.start else None
        cells[folder] = build_cell(scale, system, train, seed, folder, needs)
    return cells[folder]


def build_cell(
    scale: Scale, system: System, train: str | None, seed: int, folder: Path, needs: Cell | None = None
) -> Cell:
    """Return a cell with the configurations of its recipes.

    Args:
        scale: the scale.
        system: the system.
        train: the data set that it trains on.
        seed: the seed.
        folder: where it is written.
        needs: the cell whose model it starts from.
    """
    commands, model = [], str(scale.models[system.family])
    if system.stage is not None and train is not None:
        start = str(needs.commands[0].values["output_dir"]) if needs else model
        values = resolve_training(scale, system, train, seed, start, folder / "model")
        commands.append(Command(system.stage, values, folder / "model" / "metrics.json"))
        model = str(folder / "model")
    values = resolve_evaluation(scale, system, train, model, folder / "evaluation")
    commands.append(Command("evaluation", values, folder / "evaluation" / system.name / "metrics.json"))
    return Cell(system, train, seed, folder, tuple(commands), needs)


def resolve_training(
    scale: Scale, system: System, train: str, seed: int, start: str, output_dir: Path
) -> dict[str, Any]:
    """Return the whole configuration of a training: the scale's, with what the system changes."""
    assert system.stage is not None
    values = scale.read_config(system.stage, train)
    values |= {"model_name_or_path": start, "data": scale.data[train], "train_split": scale.splits["train"]}
    values |= {"seed": seed, "output_dir": str(output_dir)}
    if system.stage == "grpo":
        others = [name for name in scale.data if name != train]
        places = [f"{scale.data[name]}/{scale.splits['validation']}" for name in (train, *others)]
        values |= {"validation_splits": places, "num_generations": system.group_size}
        values |= scale.group_sizes.get(system.group_size or 0, {})
    return values | dict(system.settings)


def resolve_evaluation(scale: Scale, system: System, train: str | None, model: str, output_dir: Path) -> dict[str, Any]:
    """Return the whole configuration of an evaluation on the test split of every data set."""
    values = {
        "models": [f"{system.name}={model}"],
        "data": list(scale.data.values()),
        "splits": [f"{name}={folder}/{scale.splits['test']}" for name, folder in scale.data.items()],
        "in_domain": [train or scale.train_on[0]],
        "prompt_style": system.prompt_style,
        "output_dir": str(output_dir),
        "seed": 1,  # greedy: nothing is drawn
    }
    return {**values, **scale.evaluation, **system.evaluation}
