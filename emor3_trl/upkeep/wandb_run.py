"""Begins a run of W&B that no server can stop."""

from typing import Any

from emor3_trl.masking import mask_secrets, mask_text


def begin_wandb_run(**options: Any) -> Any:
    """Return a new run of W&B; an offline one where its server does not take it, which is said.

    Args:
        options: those of `wandb.init`.
    """
    import wandb

    options["config"] = mask_secrets(options.get("config"))
    try:
        return wandb.init(**options)
    except wandb.errors.Error as error:
        reason = mask_text(str(error).splitlines()[0])
        print(f"W&B is offline ({reason}). 'wandb sync' sends the run later.", flush=True)
    wandb.teardown(exit_code=1)  # the run that did not begin is still known to W&B's service
    return wandb.init(**options, mode="offline")
