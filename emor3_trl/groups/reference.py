"""The reference model in fewer bytes: its weights in bfloat16, beside a policy in float32.

A reference model is never updated, so it needs no bit that its checkpoint does not have. A checkpoint that is published
in bfloat16, as Qwen2.5-VL is, loses nothing at all. What may change is the arithmetic. Under autocast (`bf16: true`)
matrices are multiplied in bfloat16 either way, but the residual stream has the type of the embeddings: in float32 for
the policy, in bfloat16 for such a reference. Then even two equal models differ, and k3, which is never negative, would
report a KL divergence that is not there. So the embeddings of this reference leave as float32 under autocast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REFERENCE_DTYPES = ("bfloat16", "float32")


def check_reference_dtype(args: Any) -> None:
    """Check that there is a reference model, and that it keeps what is written to it.

    Args:
        args: the trainer's configuration; one without `ref_model_dtype` is right.

    Raises:
        ValueError: naming the settings, and what to set instead.
    """
    dtype = getattr(args, "ref_model_dtype", None)
    if dtype is None:
        return
    if dtype not in REFERENCE_DTYPES:
        raise ValueError(
            f"ref_model_dtype is {dtype!r}. Expected one of {', '.join(REFERENCE_DTYPES)}, or leave it unset: the "
            "type of the policy."
        )
    if not args.beta:
        raise ValueError(
            f"ref_model_dtype is '{dtype}' and beta is 0, so there is no reference model. Set beta, or leave "
            "ref_model_dtype unset."
        )
    if args.sync_ref_model and dtype == "bfloat16":
        raise ValueError(
            "ref_model_dtype is 'bfloat16' and sync_ref_model is true, but bfloat16 rounds away the small changes that "
            "are mixed into the reference. Leave one of them unset."
        )


@contextmanager
def reference_loaded_in(dtype: str | None, policy_is_loaded: bool) -> Iterator[None]:
    """Make a `GRPOTrainer` that is built inside this context load its reference model in another type.

    Args:
        dtype: one of `REFERENCE_DTYPES`, or None: TRL's choice, the type of the policy.
        policy_is_loaded: whether the trainer gets a model. If it gets a name, TRL loads the policy first.
    """
    if dtype is None:
        yield
        return
    import trl.trainer.grpo_trainer as trl_grpo  # it imports vLLM, which a command line that is read does not need

    load, loaded = trl_grpo.create_model_from_path, 1 if policy_is_loaded else 0

    def load_policy_or_reference(path: str, **options: Any) -> Any:
        nonlocal loaded
        loaded += 1
        if loaded == 1:
            return load(path, **options)
        reference = load(path, **{**options, "dtype": dtype})
        reference.get_input_embeddings().register_forward_hook(_widen_under_autocast)
        return reference

    trl_grpo.create_model_from_path = load_policy_or_reference
    try:
        yield
    finally:
        trl_grpo.create_model_from_path = load


def _widen_under_autocast(_: "torch.nn.Module", __: tuple, embeddings: "torch.Tensor") -> "torch.Tensor":
    import torch

    # Without autocast a matrix in bfloat16 takes nothing else
    return embeddings.float() if torch.is_autocast_enabled(embeddings.device.type) else embeddings
