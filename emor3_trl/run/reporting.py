"""Where a run is reported to, so that nothing is asked, nothing is sent without a key, and no server is waited for."""

import importlib.util
import netrc
import os
import sys
from pathlib import Path
from typing import Any

import huggingface_hub

from emor3_trl.launch import is_main_process
from emor3_trl.masking import mask_arguments, mask_text
from emor3_trl.run.network import can_reach

WANDB_SERVER = "https://api.wandb.ai"
# Seconds that W&B may take to begin a run and, after the last step, to send the rest of one
WANDB_PATIENCE = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "120"}


def prepare_reporting(values: dict[str, Any]) -> None:
    """Check that what a run is reported to is installed, and keep W&B from asking anything.

    W&B is offline without a key or where its server cannot be reached, and its files are inside the run's folder.

    Raises:
        ImportError: if an integration is asked for and not installed.
        ValueError: if there is no such integration.
    """
    report_to = values.get("report_to") or []
    report_to = [report_to] if isinstance(report_to, str) else report_to
    if not report_to:
        return
    from transformers.integrations import get_reporting_integration_callbacks

    names = [name for name in report_to if name not in ("none", "all")]
    callbacks = dict(zip(names, get_reporting_integration_callbacks(names), strict=True))
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise ImportError(
            "report_to names wandb, which is not installed: 'pip install -e .[wandb]', or --report_to none."
        )
    for name, callback in callbacks.items():
        if name == "wandb":
            continue
        try:
            callback()
        except (RuntimeError, ImportError) as error:
            raise ImportError(
                f"report_to names {name}, which is not installed ({error}), or --report_to none."
            ) from None
    if not {"wandb", "all"} & set(report_to) or importlib.util.find_spec("wandb") is None:
        return
    sys.argv[1:] = mask_arguments(sys.argv[1:])  # W&B keeps the command
    for name, seconds in WANDB_PATIENCE.items():
        os.environ.setdefault(name, seconds)
    if not has_wandb_key():
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would send its own faults
    os.environ.setdefault("WANDB_PROJECT", "emor3_trl")
    if values.get("output_dir"):
        os.environ.setdefault("WANDB_DIR", str(values["output_dir"]))
    server = os.environ.get("WANDB_BASE_URL", WANDB_SERVER)
    if os.environ.get("WANDB_MODE", "online") == "online" and not values.get("plan") and not can_reach(server):
        os.environ["WANDB_MODE"] = "offline"
        if is_main_process():
            place = mask_text(server)
            print(f"W&B is offline: {place} cannot be reached. 'wandb sync' sends the run later.", flush=True)


def place_trackio(values: dict[str, Any]) -> None:
    """Let trackio keep its database inside the run's folder; it reads this once, when it is imported."""
    if "trackio" in (values.get("report_to") or ()) and values.get("output_dir"):
        os.environ.setdefault("TRACKIO_DIR", str(Path(values["output_dir"], "trackio").absolute()))


def check_hub(values: dict[str, Any]) -> None:
    """Check that the Hub can be reached by a run that pushes to it; a plan pushes nothing.

    Raises:
        ValueError: if it cannot, or there is no token.
    """
    pushing = [name for name in ("push_to_hub", "log_completions_hub_repo") if values.get(name)]
    if not pushing or values.get("plan"):
        return
    endpoint = huggingface_hub.constants.ENDPOINT
    reason = ""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif not (values.get("hub_token") or huggingface_hub.get_token()):
        reason = "there is no token: 'hf auth login', or HF_TOKEN"
    elif not can_reach(endpoint):
        reason = f"{mask_text(endpoint)} cannot be reached"
    if reason:
        raise ValueError(f"{pushing[0]} is set, but {reason}. Leave it unset and push the finished folder later.")


def has_wandb_key() -> bool:
    """Return whether W&B has a key: in the environment, or from `wandb login`."""
    return "WANDB_API_KEY" in os.environ or _has_wandb_login()


def _has_wandb_login() -> bool:
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
