"""Imported libraries, left out of garbage collections.

vLLM asks for four collections where a test builds an engine. Torch, vLLM and Transformers are a million objects that
never go, which took each of them 0.7 s: three of the five seconds of an engine on a tiny model. vLLM freezes the heap
as an engine starts and thaws it as one ends; here what was imported stays frozen, and all else can be collected.
"""

import gc
import sys

FREEZE = gc.freeze
MANY = 200  # modules: vLLM's come with the first engine
_frozen = 0


def keep_frozen() -> None:
    """Let no library freeze or thaw the heap of this process."""
    gc.freeze = gc.unfreeze = lambda: None


def freeze_imports() -> None:
    """Freeze what is alive, where many modules were imported since the last time."""
    global _frozen
    if len(sys.modules) > _frozen + MANY:
        gc.collect()
        FREEZE()
        _frozen = len(sys.modules)
