"""The evaluated models of run folders, as the report reads them: predictions, training, and where the images are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emor3_trl.evaluation.arguments import name_splits, select_in_domain
from emor3_trl.evaluation.prediction import Prediction, load_predictions, split_by_dataset
from emor3_trl.files import read_mapping

# Folders of a comparison, in the order of its table, and what they are called there. EMO-R3# is the paper's name for
# EMO-R3 after Cold-Start-Emo (Sec. 4.2).
MODELS = {
    "base": "base",
    "cold_start": "cold start",
    "sft": "SFT",
    "emo_r3": "EMO-R3",
    "emo_r3_cold_start": "EMO-R3#",
}


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model.

    Args:
        name: its folder in `<run>/evaluation`.
        title: what it is called on the page; distinct among the models of a report.
        run: the folder of runs that it is from.
        config: what the evaluation was told, `config.yaml`; empty if the file is not there.
        environment: where it ran, `environment.json`; empty if the file is not there.
        predictions: one greedy prediction per image, by data set.
        log: what its training logged; empty for a model that no known run trained.
        training: what the run that trained it with rewards was told, its `config.yaml`; empty if none is known, as of
            a base model, a cold start, or a run of the Python API.
    """

    name: str
    title: str
    run: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    predictions: dict[str, list[Prediction]]
    log: list[dict[str, Any]]
    training: dict[str, Any]

    def find_image_file(self, dataset: str, data: Sequence[str] | None = None) -> Path:
        """Return the Parquet file that holds the images of a data set; it need not be there.

        Args:
            dataset: name of the data set.
            data: folders of prepared data to look in, instead of where the evaluation found it, or `<run>/data`.
        """
        folders = data or self.config.get("data") or [str(self.run / "data")]
        places = name_splits(self.config.get("splits") or [dataset], folders)
        folder, split = places.get(dataset, (data[0] if data else str(self.run / "data"), dataset))
        file, beside = Path(folder) / f"{split}.parquet", self.run / "data" / f"{dataset}.parquet"
        return beside if data is None and beside.is_file() and not file.is_file() else file


def find_evaluated_runs(runs: Sequence[str | Path]) -> list[Path]:
    """Return the folders that hold an evaluation.

    Raises:
        FileNotFoundError: if a folder is not there.
    """
    return [run for run in map(_check_folder, runs) if any((run / "evaluation").glob("*/metrics.json"))]


def load_evaluations(runs: Sequence[str | Path]) -> list[Evaluation]:
    """Read the evaluated models of run folders: folder by folder, known models first.

    Raises:
        FileNotFoundError: if a folder, its evaluations or the predictions of a model are not there.
        ValueError: if a file cannot be read, a model has no predictions, or a model shares no data set with the first.
    """
    places = [(Path(run), name) for run in runs for name in list_evaluated_models(_check_folder(run) / "evaluation")]
    names = [name for _, name in places]
    titles = [MODELS.get(name, name) + (f" ({run})" if names.count(name) > 1 else "") for run, name in places]
    evaluations = [_load_evaluation(run, name, title) for (run, name), title in zip(places, titles, strict=True)]
    for other in evaluations[1:]:
        if not other.predictions.keys() & evaluations[0].predictions.keys():
            raise ValueError(
                f"{other.title} was evaluated on {', '.join(other.predictions)}, {evaluations[0].title} on "
                f"{', '.join(evaluations[0].predictions)}: there is nothing to compare. Evaluate both on one data set "
                "(--splits of recipes/evaluate.py), or make a report on each folder."
            )
    return evaluations


def _load_evaluation(run: Path, name: str, title: str) -> Evaluation:
    folder = run / "evaluation" / name
    config = _read_record(folder / "config.yaml")
    training_folders = _list_training_folders(run / name, config)
    return Evaluation(
        name=name,
        title=title,
        run=run,
        config=config,
        environment=_read_record(folder / "environment.json"),
        predictions=_read_predictions(folder / "predictions.parquet"),
        log=_read_log(training_folders),
        training=_read_training(training_folders),
    )


def list_evaluated_models(evaluation: str | Path) -> dict[str, Path]:
    """Return the metrics.json of each evaluated model by name, known models first.

    Raises:
        FileNotFoundError: if no model has been evaluated.
    """
    files = {path.parent.name: path for path in sorted(Path(evaluation).glob("*/metrics.json"))}
    if not files:
        raise FileNotFoundError(f"There is no evaluation in '{evaluation}'. Run recipes/evaluate.py first.")
    names = [name for name in MODELS if name in files] + [name for name in files if name not in MODELS]
    return {name: files[name] for name in names}


def load_log_history(run: str | Path) -> list[dict[str, Any]]:
    """Return what a run's trainer logged: log_history.json, or the trainer state of its last checkpoint.

    Raises:
        FileNotFoundError: if the run has neither.
        ValueError: if a file cannot be read.
    """
    run = Path(run)
    states = [run / "trainer_state.json", *run.glob("checkpoint-*/trainer_state.json")]
    for files in ([run / "log_history.json"], states):
        histories = [_read_log_file(path) for path in files if path.is_file()]
        if histories:
            return max(histories, key=len)
    raise FileNotFoundError(f"'{run}' has no log_history.json and no trainer_state.json. Did its training start?")


def _read_log_file(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
        log = content["log_history"] if path.name == "trainer_state.json" else content
        for entry in log:
            for value in (value for key, value in entry.items() if key == "step" or key.startswith("reward")):
                float(value)
        return list(log)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' cannot be read as a log of training ({error!r}). Copy it again from the run, or remove it: the "
            "report then shows no training."
        ) from error


def choose_model(evaluations: Sequence[Evaluation], name: str | None, usual: str, otherwise: int) -> int:
    """Return the index of the model called `name`; without a name, of the usual one, or `otherwise` if it lacks.

    Raises:
        ValueError: if no model has the name.
    """
    names = [evaluation.name for evaluation in evaluations]
    if name is not None and name not in names:
        raise ValueError(f"There is no evaluation of a model '{name}'. There are: {', '.join(names)}.")
    chosen = usual if name is None else name
    return names.index(chosen) if chosen in names else otherwise % len(names)


def choose_in_domain(evaluations: Sequence[Evaluation], named: Sequence[str] | None) -> list[list[str]]:
    """Return the data sets that count as in-domain for each model.

    They are the named ones, else those that its evaluation was told, else those that another evaluation was told, else
    `test`.

    Raises:
        ValueError: if a named one was not evaluated.
    """
    select_in_domain(list(dict.fromkeys(name for row in evaluations for name in row.predictions)), named)
    default = next((row.config["in_domain"] for row in evaluations if row.config.get("in_domain")), ["test"])
    candidates = [named or row.config.get("in_domain") or default for row in evaluations]
    return [
        select_in_domain(list(row.predictions), [name for name in row.predictions if name in names] or None)
        for row, names in zip(evaluations, candidates, strict=True)
    ]


def _check_folder(run: str | Path) -> Path:
    if not Path(run).is_dir():
        raise FileNotFoundError(
            f"There is no folder '{run}'. Run the recipes first, or name the folder of a run: "
            "python recipes/report.py FOLDER."
        )
    return Path(run)


def _read_predictions(path: Path) -> dict[str, list[Prediction]]:
    rows = load_predictions(path)
    if not rows:
        raise ValueError(f"'{path}' holds no predictions. Evaluate the model again with --overwrite.")
    return split_by_dataset(rows)


def _list_training_folders(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Return where the run that trained a model may be: the folder of its name, or that of the evaluated weights.

    The folder of its name comes first, because a run that was moved has it too. A merged adapter and a checkpoint lie
    in the folder of their run.
    """
    model = Path(str(config.get("model", folder)))
    inside = model.name == "merged" or model.name.startswith("checkpoint-")
    return [folder, model, model.parent] if inside else [folder, model]


def _read_training(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the first configuration of a training with rewards."""
    cure = "Copy it again from the run, or remove it: the page then shows the paper's rewards."
    configs = (_read_record(folder / "config.yaml", cure) for folder in folders)
    return next((config for config in configs if "reward_variant" in config), {})


def _read_record(path: Path, cure: str = "Delete its folder and evaluate the model again.") -> dict[str, Any]:
    """Return the content of a YAML or JSON file, which may be missing."""
    record = read_mapping(path, cure) if path.is_file() else {}
    for key in ("data", "splits", "in_domain", "rewards"):  # the last of a training, the others of an evaluation
        names = record.get(key)
        if not (names is None or isinstance(names, str) or all(isinstance(name, str) for name in names)):
            raise ValueError(f"'{path}' cannot be read ({key} is {names!r}). {cure}")
    return record


def _read_log(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the first log of training that is found."""
    for folder in folders:
        if folder.is_dir():
            try:
                return load_log_history(folder)
            except FileNotFoundError:
                continue
    return []
