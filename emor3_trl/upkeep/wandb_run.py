"""Begins a run of W&B that no server can stop."""

from typing import Any


def begin_wandb_run(**options: Any) -> Any:
    """Return a new run of W&B; an offline one where its server does not take it, which is said.

    Args:
        options: those of `wandb.init`.
    """
    import wandb

    try:
        return wandb.init(**options)
    except wandb.errors.Error as error:
        print(f"W&B is offline ({str(error).splitlines()[0]}). 'wandb sync' sends the run later.", flush=True)
    wandb.teardown(exit_code=1)  # the run that did not begin is still known to W&B's service
    return wandb.init(**options, mode="offline")
