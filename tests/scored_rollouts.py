"""Rollouts of an engine that is far from the trainer, for what importance ratios and the parity check make of it."""

from typing import Any

import torch
from training import fixed_completions

from emor3_trl import EmoR3Trainer

OPTIONS: dict[str, Any] = {
    "max_steps": 3, "beta": 0.04, "learning_rate": 1e-4, "lambda1": 0.0, "max_grad_norm": 1e9, "adam_epsilon": 1e-5,
    "vllm_gpu_memory_utilization": 0.1, "parity_warn": 1e9, "parity_stop": 1e9,
}  # fmt: skip


def scored_completions(trainer: EmoR3Trainer, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple:
    """Stand in for generation with an engine that is far from the trainer, and knows not every log-probability."""
    completions, _ = fixed_completions(trainer, prompt_ids)
    draw = torch.Generator().manual_seed(trainer.state.global_step)
    gaps = [(0.3 * torch.randn(len(ids), generator=draw)).tolist() for ids in completions]
    return completions, [[None if place % 7 == 3 else -6.3 + gap for place, gap in enumerate(row)] for row in gaps]
