"""Dashboards from a terminal: what the two recipes can be told, sending one to W&B, and serving trackio's."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emor3_trl.run.network import can_reach
from emor3_trl.run.reporting import WANDB_SERVER, has_wandb_key
from emor3_trl.run.tracking import PROJECT

DATABASE = "trackio"  # the folder in that of a run


@dataclass
class WandbDashboardArguments:
    """A dashboard of W&B for runs that log what this one does."""

    run: str = field(default="runs/demo/emo_r3", metadata={"help": "Folder of a training run, whose metrics it shows."})
    evaluation: str | None = field(
        default=None, metadata={"help": "Folder of an evaluated model, such as runs/demo/evaluation/emo_r3."}
    )
    project: str = field(default=PROJECT, metadata={"help": "Project of W&B (WANDB_PROJECT of the runs)."})
    entity: str | None = field(default=None, metadata={"help": "User or team of W&B (default: that of the key)."})
    output: str | None = field(
        default=None, metadata={"help": "The file to write (default: wandb_dashboard.json in the run's folder)."}
    )
    send: bool = field(default=False, metadata={"help": "Send it to W&B; without it nothing leaves this machine."})


@dataclass
class LocalDashboardArguments:
    """The local dashboard of runs that report_to trackio."""

    runs: list[str] = field(
        default_factory=lambda: ["runs/demo/emo_r3"],
        metadata={"help": "Folder of a run, or a folder that TRACKIO_DIR named; may stand first, without --runs."},
    )
    port: int = field(default=7860, metadata={"help": "Port on this machine's loopback address."})
    open_browser: bool = field(default=False, metadata={"help": "Open it in a browser as well."})

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port is {self.port}. Expected 1 to 65535.")
        if len(self.runs) != 1:
            raise ValueError(
                f"runs names {len(self.runs)} folders, and trackio shows one database. Name one; runs that were "
                "started with one TRACKIO_DIR share theirs."
            )


def check_sending() -> None:
    """Check that W&B has a key and can be reached.

    Raises:
        ValueError: if it has none, or cannot.
    """
    server = os.environ.get("WANDB_BASE_URL", WANDB_SERVER)
    reason = ""
    if not has_wandb_key():
        reason = "W&B has no key: 'wandb login', or WANDB_API_KEY"
    elif not can_reach(server):
        reason = f"{server} cannot be reached"
    if reason:
        raise ValueError(f"send is set, but {reason}. The dashboard was written, and can be sent later.")


def send_dashboard(dashboard: Any) -> str:
    """Send a dashboard to W&B, and return its address.

    Raises:
        ValueError: if W&B refuses it.
    """
    import wandb

    try:
        dashboard.entity = dashboard.entity or wandb.Api(timeout=30).default_entity
        return str(dashboard.save().url)
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ValueError(f"W&B did not take the dashboard: {str(error).splitlines()[0]}") from None


def find_database(run: Path) -> Path:
    """Return the folder of trackio's database for a run, or the folder itself where it is one.

    Raises:
        FileNotFoundError: if there is none.
    """
    for folder in (run / DATABASE, run):
        if any(folder.glob("*.db")):
            return folder.absolute()
    raise FileNotFoundError(f"'{run}' holds no database of trackio. Train with --report_to trackio first.")


def check_port(port: int) -> None:
    """Check that nothing listens on a port of the loopback address.

    Raises:
        ValueError: if something does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ValueError(f"port {port} is in use. Choose another one: --port {port % 65535 + 1}.") from None


def serve_database(database: Path, port: int, open_browser: bool) -> None:
    """Serve trackio's dashboard on the loopback address until it is interrupted."""
    os.environ["TRACKIO_DIR"] = str(database)  # read once, when trackio is imported
    import trackio

    trackio.show(project=PROJECT, host="127.0.0.1", server_port=port, open_browser=open_browser, share=False)
