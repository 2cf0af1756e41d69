"""SIGTERM and Ctrl-C where nothing is trained: a recipe ends with one line, and goes on from what is saved."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of training, which ends a recipe as Ctrl-C does."""


def end_on_sigterm() -> None:
    """Let SIGTERM raise `Terminated`, unless another one catches it; only the main thread can receive it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

        def end(_: int) -> None:
            raise Terminated

        catch_signal(signal.SIGTERM, end)


def describe_stop(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return what to say of a recipe that ends where nothing is trained, and its exit code."""
    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    return f"Stopped by {NAMES[number]}. The same command goes on from what is saved.", 128 + number


def catch_signal(number: signal.Signals, receive: Callable[[int], None]) -> Any:
    """Let a function receive a signal of this process; a child that is forked is ended by it, as without.

    A worker of a `DataLoader` leaves the first Ctrl-C to its parent: a terminal sends it to all processes, and the step
    that is to end may still need rows. (SIGTERM is torch's own there.)

    Returns:
        What received it before.
    """
    process = os.getpid()

    def handle(received: int, _: Any) -> None:
        if os.getpid() == process:
            receive(received)
            return
        signal.signal(received, signal.SIG_DFL)
        loading = sys.modules.get("torch.utils.data")
        if loading is None or loading.get_worker_info() is None:
            os.kill(os.getpid(), received)

    return signal.signal(number, handle)
