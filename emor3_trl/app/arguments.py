"""What the page is told: which models, and where it is served."""

import importlib.util
import socket
from dataclasses import dataclass, field

from emor3_trl.evaluation.photos import AskingArguments

HOST = "127.0.0.1"  # pictures of people do not leave this machine


@dataclass(kw_only=True)
class AppArguments(AskingArguments):
    """Which models answer on the page, and where it is served."""

    base: str | None = field(
        default=None, metadata={"help": "A second model to show beside it, such as the one that it was trained from."}
    )
    port: int = field(default=7860, metadata={"help": "Port on this machine; 0 takes one that is free."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}. Expected 1 to 65535, or 0 for one that is free.")


def check_gradio() -> None:
    """Make sure that Gradio is installed.

    Raises:
        ModuleNotFoundError: if it is not.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError("The page needs Gradio, which is not installed: pip install -e .[app]")


def choose_port(port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        OSError: if another program uses it, or this user may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(
                f"port is {port}, which cannot be opened ({error.strerror}). Choose another --port; 0 takes a free one."
            ) from None
        return int(probe.getsockname()[1])
