"""SIGTERM, as a cluster sends it, and Ctrl-C: a step ends, a checkpoint is saved, and the same command goes on from it.

Where nothing is trained, a recipe ends at once (signals.py).
"""

import signal
import threading
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from emor3_trl.run.signals import NAMES, catch_signal


def train_until_stopped(trainer: Trainer, checkpoint: str | None) -> Any:
    """Train, and return what `trainer.train` does; on SIGTERM or Ctrl-C save a checkpoint, say so, and exit.

    A second Ctrl-C stops at once. The exit code is 143 after SIGTERM, 130 after Ctrl-C.

    Args:
        trainer: the trainer.
        checkpoint: where to go on, None for a run from the start.

    Raises:
        SystemExit: after a signal.
    """
    stop = _StopOnSignal()
    trainer.add_callback(stop)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    number = stop.agree(trainer.args)
    if not number:
        return result
    if not stop.saved:  # it came after the last step
        trainer._save_checkpoint(trainer.model, trial=None)
    if trainer.accelerator.is_main_process:
        place = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
        print(f"Stopped by {NAMES[number]}: {place} is saved, and the same command goes on from it", flush=True)
    raise SystemExit(128 + number)


class _StopOnSignal(TrainerCallback):
    """Ends training after the step in which a process of the launch received a signal, with a checkpoint."""

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        self.saved = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        # A launcher that got SIGTERM as well sends it once more: it is never an order to stop at once
        self._before[signal.SIGTERM] = catch_signal(signal.SIGTERM, self._receive)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
            self._before[signal.SIGINT] = catch_signal(signal.SIGINT, self._receive)

    def _receive(self, number: int) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = max(self.received, number)

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        if self.agree(args):
            self.saved = control.should_save = control.should_training_stop = True

    def agree(self, args: Any) -> signal.Signals | None:
        """Return the signal that any process received; all of them ask together, because they save together."""
        received = self.received
        if args.world_size > 1:
            largest = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
            self.received = received = int(largest)
        return signal.Signals(received) if received else None

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
