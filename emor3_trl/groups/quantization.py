"""Weights of 4 or 8 bits, in all the ways to ask for them: what cannot train is refused before it is loaded."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

# What to say of weights in 4 or 8 bits, with what asks for them
QUANTIZED = (
    "{} and use_vllm is true, but vLLM takes whole weights from the trainer and would die at the first of them. Set "
    "use_vllm: false, or train LoRA on weights in bfloat16 (dtype: bfloat16, use_peft: true)."
)
UNTRAINABLE = "{}, but weights of few bits cannot be trained. Set --use_peft true, for LoRA (in Python: peft_config)."


def check_quantization(
    model: "str | PreTrainedModel", config: Any, args: Any, adapter: "PeftConfig | None", given: Any = None
) -> None:
    """Check that weights of 4 or 8 bits get an adapter, and no vLLM.

    Args:
        model: the policy, a name or a loaded model.
        config: the model's configuration; a checkpoint that is quantised (GPTQ, AWQ, bitsandbytes) says so there.
        args: the trainer's configuration.
        adapter: the adapter that the trainer adds; None for none.
        given: the trainer's argument `quantization_config`.

    Raises:
        ValueError: naming what asks for few bits, and what to set.
    """
    method = getattr(config, "quantization_config", None)
    method = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", None)
    method = getattr(method, "value", method)
    name = model if isinstance(model, str) else config._name_or_path
    options = getattr(args, "model_init_kwargs", None)
    asking = {
        "quantization_config is given": given is not None,
        "model_init_kwargs holds a quantization_config": bool(
            isinstance(options, dict) and options.get("quantization_config")
        ),
        f"The checkpoint '{name}' is quantised ({method})": method is not None,
    }
    reason = next((text for text, asks in asking.items() if asks), None)
    if reason and getattr(args, "use_vllm", False):
        raise ValueError(QUANTIZED.format(reason))
    if reason and adapter is None and not getattr(model, "peft_config", None):
        raise ValueError(UNTRAINABLE.format(reason))
