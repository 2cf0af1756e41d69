"""EMO-R3 for TRL: structured emotional thinking, a reflective reward and GRPO for vision-language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emor3_trl.config import EmoR3Config
    from emor3_trl.groups.trainer import GroupTrainer
    from emor3_trl.trainer import EmoR3Trainer

__all__ = ["EmoR3Config", "EmoR3Trainer", "GroupTrainer"]
__version__ = "0.2.0"

_HOMES = {
    "EmoR3Config": "emor3_trl.config",
    "EmoR3Trainer": "emor3_trl.trainer",
    "GroupTrainer": "emor3_trl.groups.trainer",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that parsing and rewards import in milliseconds and vLLM's own process stays small.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'emor3_trl' has no attribute '{name}'")
