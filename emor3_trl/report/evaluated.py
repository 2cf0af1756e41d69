"""The evaluated models of one or more run folders, as the report reads them, and where their pictures are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyarrow import ArrowException

from emor3_trl.evaluation.arguments import name_splits, select_in_domain
from emor3_trl.evaluation.prediction import Prediction, load_predictions
from emor3_trl.report.terminal import MODELS, evaluated_models, load_log_history


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model.

    Args:
        name: its folder in `<run>/evaluation`.
        title: what it is called on the page; distinct among the models of a report.
        run: the folder of runs that it is from.
        config: what the evaluation was told, `config.yaml`; empty if the file is not there.
        environment: where it ran, `environment.json`; empty if the file is not there.
        predictions: one greedy prediction per picture, by data set.
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

    def picture_file(self, dataset: str, data: Sequence[str] | None = None) -> Path:
        """Return the Parquet file that holds the pictures of a data set; it need not be there.

        Args:
            dataset: name of the data set.
            data: folders of prepared data to look in, instead of where the evaluation found it, or `<run>/data`.
        """
        folders = data or self.config.get("data") or [str(self.run / "data")]
        places = name_splits(self.config.get("splits") or [dataset], folders)
        folder, split = places.get(dataset, (data[0] if data else str(self.run / "data"), dataset))
        file, beside = Path(folder) / f"{split}.parquet", self.run / "data" / f"{dataset}.parquet"
        return beside if data is None and beside.is_file() and not file.is_file() else file


def load_evaluations(runs: Sequence[str | Path]) -> list[Evaluation]:
    """Read the evaluated models of run folders: folder by folder, known models first.

    Raises:
        FileNotFoundError: if a folder, its evaluations or the predictions of a model are not there.
        ValueError: if a file cannot be read, a model has no predictions, or a model shares no data set with the first.
    """
    found = [(Path(run), path) for run in runs for path in evaluated_models(_folder(run) / "evaluation").values()]
    names = [path.parent.name for _, path in found]
    evaluations = []
    for run, path in found:
        name = path.parent.name
        title = MODELS.get(name, name) + (f" ({run})" if names.count(name) > 1 else "")
        config = _read_yaml(path.with_name("config.yaml"))
        folders = _list_training_folders(run / name, config)
        evaluations.append(
            Evaluation(
                name=name,
                title=title,
                run=run,
                config=config,
                environment=_read_yaml(path.with_name("environment.json")),
                predictions=_read_predictions(path.with_name("predictions.parquet")),
                log=_read_log(folders),
                training=_read_training(folders),
            )
        )
    for other in evaluations[1:]:
        if not other.predictions.keys() & evaluations[0].predictions.keys():
            raise ValueError(
                f"{other.title} was evaluated on {', '.join(other.predictions)}, {evaluations[0].title} on "
                f"{', '.join(evaluations[0].predictions)}: there is nothing to compare. Evaluate both on one data set "
                "(--splits of recipes/evaluate.py), or make a report on each folder."
            )
    return evaluations


def choose_model(evaluations: Sequence[Evaluation], name: str | None, usual: str, otherwise: int) -> int:
    """Return the index of the model called `name`; without a name of the `usual` one if it is there, else `otherwise`.

    Raises:
        ValueError: if no model has the name.
    """
    names = [evaluation.name for evaluation in evaluations]
    if name is not None and name not in names:
        raise ValueError(f"There is no evaluation of a model '{name}'. There are: {', '.join(names)}.")
    wanted = usual if name is None else name
    return names.index(wanted) if wanted in names else otherwise % len(names)


def choose_in_domain(evaluations: Sequence[Evaluation], named: Sequence[str] | None) -> list[list[str]]:
    """Return the data sets that count as in-domain for each model.

    They are the named ones, else those that its evaluation was told, else those that another one was, else `test`.

    Raises:
        ValueError: if one that is named was not evaluated.
    """
    select_in_domain(list(dict.fromkeys(name for row in evaluations for name in row.predictions)), named)
    told = next((row.config["in_domain"] for row in evaluations if row.config.get("in_domain")), ["test"])
    chosen = []
    for row in evaluations:
        wanted = named or row.config.get("in_domain") or told
        chosen.append(
            select_in_domain(list(row.predictions), [name for name in row.predictions if name in wanted] or None)
        )
    return chosen


def _folder(run: str | Path) -> Path:
    if not Path(run).is_dir():
        raise FileNotFoundError(
            f"There is no folder '{run}'. Run the recipes first, or name the folder of a run: "
            "python recipes/report.py FOLDER."
        )
    return Path(run)


def _read_predictions(path: Path) -> dict[str, list[Prediction]]:
    try:
        rows = load_predictions(path)
    except (ArrowException, TypeError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"'{path}' cannot be read as predictions ({error}). Evaluate the model again with --overwrite."
        ) from error
    if not rows:
        raise ValueError(f"'{path}' holds no predictions. Evaluate the model again with --overwrite.")
    return {name: [row for row in rows if row.dataset == name] for name in dict.fromkeys(row.dataset for row in rows)}


def _list_training_folders(own_folder: Path, config: dict[str, Any]) -> list[Path]:
    """Return where the run that trained a model may be: its folder beside the evaluations, or the evaluated weights.

    A merged adapter and a checkpoint lie in the folder of their run.
    """
    model = Path(str(config.get("model", own_folder)))
    inside = model.name == "merged" or model.name.startswith("checkpoint-")
    return [own_folder, model, model.parent] if inside else [own_folder, model]


def _read_training(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the first configuration of a training with rewards."""
    cure = "Copy it again from the run, or remove it: the page then shows the paper's rewards."
    configs = (_read_yaml(folder / "config.yaml", cure) for folder in folders)
    return next((config for config in configs if "reward_variant" in config), {})


def _read_yaml(path: Path, cure: str = "Evaluate the model again with --overwrite.") -> dict[str, Any]:
    """Return the content of a YAML or JSON file, which may be missing."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read ({error}). {cure}") from error
    return content if isinstance(content, dict) else {}


def _read_log(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the first log of training that is found."""
    for folder in folders:
        if folder.is_dir():
            try:
                return load_log_history(folder)
            except FileNotFoundError:
                continue
    return []
