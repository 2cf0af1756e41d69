"""Seconds, tokens, vision patches and peak memory of an optimiser step, by part."""

import gc
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


class Meter:
    """Seconds, tokens and peak memory of a step, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.patches: dict[str, int] = defaultdict(int)
        self.peak = 0
        self.part: str | None = None
        self.began = 0.0

    def start(self) -> None:
        """Forget the last step."""
        self.seconds.clear()
        self.tokens.clear()
        self.patches.clear()
        self.peak = 0
        self.began = time.perf_counter()

    def read(self) -> dict[str, Any]:
        """Return the step's figures."""
        return {
            "step": time.perf_counter() - self.began,
            "seconds": dict(self.seconds),
            "tokens": dict(self.tokens),
            "patches": dict(self.patches),
            "peak": self.peak,
        }

    def timed(self, part: str, function: Any) -> Any:
        """Return a function whose time is added to a part, and whose forwards count for it."""

        def run(*args, **kwargs):
            outer, self.part = self.part, part
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - begin
                self.part = outer

        return run

    def attach(self, trainer: Any) -> None:
        """Measure a trainer from now on."""
        import torch

        engine = trainer.vllm_generation
        engine.sync_weights = self.timed("weight sync", engine.sync_weights)
        engine.generate = self.timed("rollout", engine.generate)
        if hasattr(trainer, "_reflect"):
            trainer._reflect = self.timed("reflection", trainer._reflect)
        # Outputs can't tell: a request for n completions is n requests inside, and has the last one's cached tokens.
        scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
        stock_schedule = scheduler.schedule

        def schedule(*args, **kwargs):
            scheduled = stock_schedule(*args, **kwargs)
            self.tokens[self.part or ""] += scheduled.total_num_scheduled_tokens
            return scheduled

        scheduler.schedule = schedule
        image_processor = trainer.processing_class.image_processor
        stock_class = type(image_processor)
        meter, stock_call = self, stock_class.__call__

        def call(self, *args, **kwargs):
            own = self is image_processor  # vLLM has one of its own
            return (meter.timed("images", stock_call) if own else stock_call)(self, *args, **kwargs)

        stock_class.__call__ = call
        stock_logps = trainer._get_per_token_logps_and_entropies

        def logps(model, *args, **kwargs):
            if torch.is_grad_enabled():
                return stock_logps(model, *args, **kwargs)
            part = "reference" if model is trainer.ref_model else "old"
            return self.timed(part, stock_logps)(model, *args, **kwargs)

        trainer._get_per_token_logps_and_entropies = logps
        for model in (trainer.model, trainer.ref_model):
            model.model.language_model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
            model.model.visual.register_forward_pre_hook(self._count_patches, with_kwargs=True)
        stock_step, stock_inputs = trainer.training_step, trainer._prepare_inputs
        inside: dict[str, float] = {}

        def prepare_inputs(*args, **kwargs):
            begin = time.perf_counter()
            outer, self.part = self.part, None
            inputs = stock_inputs(*args, **kwargs)
            self.part = outer
            measured = time.perf_counter()
            gc.collect()
            inside["rss"] = reset_peak()
            inside["seconds"] = time.perf_counter() - begin
            self.began += time.perf_counter() - measured  # measuring is no part of a step
            return inputs

        def training_step(*args, **kwargs):
            loss = self.timed("policy", stock_step)(*args, **kwargs)
            self.seconds["policy"] -= inside["seconds"]
            self.peak = max(self.peak, peak_rss() - inside["rss"])
            return loss

        trainer._prepare_inputs, trainer.training_step = prepare_inputs, training_step
        stock_create = trainer.create_optimizer

        def create_optimizer(*args, **kwargs):
            optimizer = stock_create(*args, **kwargs)
            if not hasattr(optimizer, "measured"):
                optimizer.step, optimizer.measured = self.timed("optimizer", optimizer.step), True
            return optimizer

        trainer.create_optimizer = create_optimizer

    def _count_tokens(self, module: Any, args: tuple, kwargs: dict) -> None:
        embeds = kwargs["inputs_embeds"]
        self.tokens[self.part or ""] += embeds.shape[0] * embeds.shape[1]

    def _count_patches(self, module: Any, args: tuple, kwargs: dict) -> None:
        self.patches[self.part or ""] += (args[0] if args else kwargs["hidden_states"]).shape[0]


def reset_peak() -> int:
    """Start a new peak of resident memory, and return what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_rss() -> int:
    """Return the peak of resident memory since `reset_peak`, in bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
