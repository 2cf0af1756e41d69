"""W&B, so that it never asks anything and sends nothing without a key."""

import importlib.util
import netrc
import os
import sys
from typing import Any

from transformers.integrations import get_reporting_integration_callbacks

from emor3_trl.run.folder import hide_secrets


def prepare_reporting(values: dict[str, Any]) -> None:
    """Keep W&B from asking anything: offline without a key, its files inside the run's folder, no token in them.

    Raises:
        ImportError: if W&B is asked for and not installed.
        ValueError: if there is no such integration.
    """
    report_to = values.get("report_to") or []
    report_to = [report_to] if isinstance(report_to, str) else report_to
    get_reporting_integration_callbacks([name for name in report_to if name not in ("none", "all")])
    if "wandb" not in report_to and "all" not in report_to:
        return
    if importlib.util.find_spec("wandb") is None:
        if "wandb" not in report_to:
            return
        raise ImportError(
            "report_to names wandb, which is not installed: 'pip install -e .[wandb]', or --report_to none."
        )
    sys.argv[1:] = hide_secrets(sys.argv[1:])  # W&B keeps the command
    if "WANDB_API_KEY" not in os.environ and not _has_wandb_login():
        os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_PROJECT", "emor3_trl")
    if values.get("output_dir"):
        os.environ.setdefault("WANDB_DIR", str(values["output_dir"]))


def _has_wandb_login() -> bool:
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
