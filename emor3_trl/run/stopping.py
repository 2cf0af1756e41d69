"""SIGTERM, as a cluster sends it: the step ends, a checkpoint is saved, and the same command goes on from it."""

import signal
import threading
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

EXIT_CODE = 128 + signal.SIGTERM


def train_until_stopped(trainer: Trainer, checkpoint: str | None) -> Any:
    """Train, and return what `trainer.train` does; on SIGTERM save a checkpoint, say so, and exit with code 143.

    Args:
        trainer: the trainer.
        checkpoint: where to go on, None for a run from the start.

    Raises:
        SystemExit: after SIGTERM.
    """
    stop = _StopOnSigterm()
    trainer.add_callback(stop)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if not stop.agree(trainer.args):
        return result
    if not stop.saved:  # it came after the last step
        trainer._save_checkpoint(trainer.model, trial=None)
    if trainer.accelerator.is_main_process:
        place = f"{trainer.args.output_dir}/checkpoint-{trainer.state.global_step}"
        print(f"Stopped by SIGTERM: {place} is saved, and the same command goes on from it", flush=True)
    raise SystemExit(EXIT_CODE)


class _StopOnSigterm(TrainerCallback):
    """Ends training after the step in which a process of the launch received SIGTERM, with a checkpoint."""

    def __init__(self) -> None:
        self.received = self.saved = False
        self._before: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            # A launcher that got the signal as well sends it once more: it is never an order to stop at once
            self._before = signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_: Any) -> None:
        self.received = True

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        if self.agree(args):
            self.saved = control.should_save = control.should_training_stop = True

    def agree(self, args: Any) -> bool:
        """Return whether any process received it; all of them ask together, because they save together."""
        if args.world_size > 1:
            received = torch.tensor(int(self.received), device=args.device)
            torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
            self.received = bool(received)
        return self.received

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
