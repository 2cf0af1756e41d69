"""A training run in W&B and trackio: what it is called, what they are told of it, and that a resumed run goes on."""

import secrets
import sys
from pathlib import Path
from typing import Any

from emor3_trl.files import read_mapping, write_json
from emor3_trl.launch import is_main_process
from emor3_trl.masking import mask_text
from emor3_trl.run.folder import ENVIRONMENT, RunFolder
from emor3_trl.upkeep.wandb_run import begin_wandb_run

RECORD = "tracking.json"
PROJECT = "emor3_trl"
STEP_ENTRIES = 10  # an optimizer step logs fewer: its metrics, a validation, a table


def start_tracking(folder: RunFolder, args: Any) -> None:
    """Begin a run in what the configuration reports to, or go on with that of a resumed run.

    W&B is told the resolved configuration, the versions and the digests of weights and data. Where it cannot begin
    online it is offline: `wandb sync` sends the run later.

    Args:
        folder: the run's folder, after `begin`.
        args: the trainer's configuration; its `run_name` is set where the user gave none.
    """
    names = [name for name in ("wandb", "trackio") if name in (args.report_to or ())]
    if not names or not is_main_process():
        return
    run_id = _choose_run_id(folder)
    args.run_name = mask_text(args.run_name or f"{folder.path.name}-{run_id}")
    if "trackio" in names:
        args.project = PROJECT if args.project == "huggingface" else args.project
        if args.trackio_static_space_id is None:
            args.trackio_static_space_id = False  # otherwise a push to the Hub would make a Space too
    if "wandb" in names:
        _start_wandb(folder, args, run_id)


def finish_tracking() -> None:
    """End the W&B run of this process, if there is one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()


def _choose_run_id(folder: RunFolder) -> str:
    """Return the run's id: that of the stopped run if this one goes on from its checkpoint, else a new one."""
    record = folder.path / RECORD
    if folder.checkpoint and record.is_file():
        return str(read_mapping(record, "Delete it: the run goes on as a new one in W&B.")["run_id"])
    run_id = secrets.token_hex(4)
    write_json(record, {"run_id": run_id})
    return run_id


def _start_wandb(folder: RunFolder, args: Any, run_id: str) -> None:
    environment = read_mapping(folder.path / ENVIRONMENT, "Start the run again.")
    config = {
        "resolved": folder.values,
        "versions": environment["versions"],
        "sources": environment["sources"],
    }
    options = {"id": run_id, "name": args.run_name, "resume": "allow", "config": config}
    run = begin_wandb_run(**options)
    if folder.checkpoint and not run.starting_step:
        # Offline, W&B does not know where the run stopped, and a server leaves out what comes at an earlier place
        step = int(Path(folder.checkpoint).name.removeprefix("checkpoint-"))
        run.log({}, step=STEP_ENTRIES * (step + 1), commit=False)
