"""Where a trainer's vLLM engine runs: in the same process, or on a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trl.trainer.grpo_trainer as trl_grpo

from emor3_trl.engines.colocated import ColocatedEngine


@contextmanager
def use_engine(mode: str, options: dict[str, Any]) -> Iterator[None]:
    """Make a `GRPOTrainer` that is built inside this context use this project's engine.

    Args:
        mode: "colocate" or "server".
        options: see `engines.opening.engine_options`; a server has been started with its own.
    """
    engine: type[ColocatedEngine] = ColocatedEngine
    if mode == "server":
        from emor3_trl.engines.server import ServedEngine  # imports vLLM

        engine = ServedEngine
    stock = trl_grpo.VLLMGeneration
    trl_grpo.VLLMGeneration = partial(engine, options=options)
    try:
        yield
    finally:
        trl_grpo.VLLMGeneration = stock
