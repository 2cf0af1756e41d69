"""Seconds and peak memory of an optimizer step by part; the parts of a step add up to it."""

import time
from collections import defaultdict
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from real_size_machine import held_memory, peak_memory, reset_peak
from step_meter import Meter

TRAINING = ("old", "reference", "policy")


class PartMeter(Meter):
    """`step_meter.Meter` where a part inside another one stops the outer one's clock, and memory is kept by part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "random weights"
        self.since = time.perf_counter()
        self.memory: dict[str, int] = defaultdict(int)  # peak of each part, in bytes
        self.before = 0  # bytes that were held before the trainer was built
        self.device = 0  # most bytes of the GPU in use, by whoever
        self.held: dict[str, int] = {}  # bytes of what stays, by its name
        self.steps: list[dict[str, Any]] = []
        self.detach = lambda: None  # leaves what other trainers share as it was
        reset_peak()

    def switch(self, part: str) -> str:
        """Go on with another part, and return the one before."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            self.device = max(self.device, total - free)
        now, before = time.perf_counter(), self.part or ""
        self.seconds[before] += now - self.since
        self.memory[before] = max(self.memory[before], peak_memory())
        reset_peak()
        self.part, self.since = part, time.perf_counter()
        return before

    def timed(self, part: str, function: Any) -> Any:
        """Return a function whose time and memory are its part's; a part that is left by an error stays the present."""

        def run(*args: Any, **kwargs: Any) -> Any:
            outer = self.switch(part)
            result = function(*args, **kwargs)
            self.switch(outer)
            return result

        return run

    def find_highest(self) -> int:
        """Return the most bytes in use: of a GPU, vLLM's included; on a CPU, what the run has added to the process."""
        return self.device or max(self.memory.values()) - self.before

    def start(self) -> None:
        """Begin a step."""
        super().start()
        self.part, self.since = "rest", time.perf_counter()

    def end(self) -> None:
        """End a step, and keep its figures."""
        self.switch("rest")
        self.steps.append(self.read())

    def attach(self, trainer: Any) -> None:
        """Measure a trainer on vLLM or transformers, with a reference model or an adapter, from now on."""
        trainer._generate_single_turn = self.timed("rollout", trainer._generate_single_turn)
        trainer._reflect = self.timed("reflection", trainer._reflect)
        trainer._prepare_inputs = self.timed("rest", trainer._prepare_inputs)
        trainer.training_step = self.timed("policy", trainer.training_step)
        if trainer.use_vllm:
            engine = trainer.vllm_generation
            for name, part in (("sync_weights", "weight sync"), ("wake_up", "wake up"), ("sleep", "sleep")):
                setattr(engine, name, self.timed(part, getattr(engine, name)))
        self._measure_images(trainer.processing_class.image_processor)
        self._measure_scoring(trainer)
        self._measure_optimizer(trainer)
        base = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
        for model in (base, trainer.ref_model):
            if model is not None:
                model.model.language_model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
                model.model.visual.register_forward_pre_hook(self._count_patches, with_kwargs=True)

    def _measure_images(self, images: Any) -> None:
        stock = type(images).preprocess
        timed = self.timed("images", stock)

        def preprocess(processor: Any, *args: Any, **kwargs: Any) -> Any:
            return (timed if processor is images else stock)(processor, *args, **kwargs)  # vLLM has one of its own

        type(images).preprocess = preprocess
        self.detach = lambda: setattr(type(images), "preprocess", stock)

    def _measure_scoring(self, trainer: Any) -> None:
        score = trainer._get_per_token_logps_and_entropies
        adapters = [layer for layer in trainer.model.modules() if isinstance(layer, BaseTunerLayer)]

        def scored(model: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return score(model, *args, **kwargs)
            plain = any(layer.disable_adapters for layer in adapters)
            part = "reference" if plain or (trainer.ref_model is not None and model is trainer.ref_model) else "old"
            return self.timed(part, score)(model, *args, **kwargs)

        trainer._get_per_token_logps_and_entropies = scored

    def _measure_optimizer(self, trainer: Any) -> None:
        create = trainer.create_optimizer

        def create_optimizer(*args: Any, **kwargs: Any) -> Any:
            optimizer = create(*args, **kwargs)
            if not hasattr(optimizer, "is_measured"):
                step = optimizer.step

                def take_step(*args: Any, **kwargs: Any) -> Any:
                    self.held["gradients"] = count_bytes(weight.grad for weight in trainer.model.parameters())
                    result = self.timed("optimizer", step)(*args, **kwargs)
                    states = (value for state in optimizer.state.values() for value in state.values())
                    self.held["optimizer"] = count_bytes(value for value in states if torch.is_tensor(value))
                    return result

                optimizer.step, optimizer.is_measured = take_step, True
            return optimizer

        trainer.create_optimizer = create_optimizer

    def read_held(self, trainer: Any, before: int) -> dict[str, int]:
        """Return the bytes of what stays: tensors by their own sizes, and all that the building has added."""
        reference = trainer.ref_model.parameters() if trainer.ref_model is not None else ()
        self.held |= {
            "weights": count_bytes(trainer.model.parameters()),
            "reference model": count_bytes(reference),
            "after building": held_memory() - before,
        }
        return self.held


def count_bytes(tensors: Any) -> int:
    """Return the bytes of tensors, None among them left out."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
