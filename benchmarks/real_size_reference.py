"""What a reference model in bfloat16 changes beside one in float32: log-probabilities, KL, loss and gradient.

    python benchmarks/real_size_reference.py        # 37 M parameters, one group of 8; writes runs/benchmarks/…json

Each arm is one real step of `EmoR3Trainer` on the same group of completions: its reference pass, its loss, its
gradient. Arms differ in the arithmetic (float32, or autocast to bfloat16 as `bf16: true` does), in the reference, in
the weights that all start from (those of a checkpoint in bfloat16, as published models are, or of one trained in
float32), and in whether the policy has moved. `bfloat16, narrow` is the reference without the float32 residual stream
of `emor3_trl.groups.reference`. The gap of an arm is that to the first arm with the same weights and arithmetic.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import step_setting
import torch
from real_size_machine import describe_machine
from step_setting import build_model, completion_ids, prompt, rows

REFERENCES = (None, "bfloat16", "bfloat16, narrow")


def main() -> None:
    """Run all arms, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/real_size_reference.json"))
    parser.add_argument("--hidden", type=int, default=512, help="512 makes 37 M parameters")
    parser.add_argument("--layers", type=int, default=9)
    options = parser.parse_args()
    arms = []
    with tempfile.TemporaryDirectory() as folder:
        for published in (True, False):
            torch.manual_seed(0)
            model = Path(folder) / f"model_{published}"
            build_model(model, options.hidden, options.layers)
            if published:
                round_weights(model)
            for bf16, moved in itertools.product((False, True), (0.0, 0.01)):
                whole: dict[str, Any] = {}
                for reference in REFERENCES if bf16 else REFERENCES[:2]:
                    step = take_step(model, Path(folder) / "run", reference, bf16, moved)
                    whole = whole or step
                    arms.append(
                        {
                            "weights": "of a bfloat16 checkpoint" if published else "trained in float32",
                            "arithmetic": "autocast to bfloat16" if bf16 else "float32",
                            "policy": "moved" if moved else "at the reference",
                            "reference": reference or "float32",
                            **compare_steps(step, whole),
                        }
                    )
                    print(format_row(arms[-1]), flush=True)
    record = {"machine": describe_machine(), "parameters": step["parameters"], "arms": arms}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


def round_weights(folder: Path) -> None:
    """Give a checkpoint weights that bfloat16 holds exactly, stored in float32."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="bfloat16")
    model.float().save_pretrained(folder)


def take_step(model: Path, output: Path, reference: str | None, bf16: bool, moved: float) -> dict[str, Any]:
    """Take one step, and return what it computed.

    Args:
        model: the checkpoint of policy and reference.
        output: the run's folder.
        reference: one of `REFERENCES`.
        bf16: compute under autocast.
        moved: noise on the policy's weights, as a share of each tensor's standard deviation.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from emor3_trl import EmoR3Config, EmoR3Trainer

    step_setting.IMAGE = 64
    processor = AutoProcessor.from_pretrained(model, padding_side="left")
    args = EmoR3Config(
        output_dir=str(output), per_device_train_batch_size=8, num_generations=8, lambda1=0.0, max_steps=1,
        max_completion_length=step_setting.COMPLETION, learning_rate=0.0, beta=0.01, bf16=bf16, use_cpu=True,
        use_vllm=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
        max_grad_norm=0.0, ref_model_dtype="bfloat16" if reference else None,
    )  # fmt: skip
    trainer = EmoR3Trainer(
        model=AutoModelForImageTextToText.from_pretrained(model, dtype="float32"), args=args,
        train_dataset=rows(prompt(processor), 1), processing_class=processor,
    )  # fmt: skip
    if reference == "bfloat16, narrow":
        trainer.ref_model.get_input_embeddings()._forward_hooks.clear()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            spread = moved * weight.std() if weight.numel() > 1 else 0.0
            weight += spread * torch.randn(weight.shape, generator=noise)
    ids = [completion_ids(processor, number) for number in range(8)]
    trainer._generate_single_turn = lambda *_, **__: (ids, None)
    seen: dict[str, Any] = {"parameters": sum(weight.numel() for weight in trainer.model.parameters())}
    score, backward = trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward

    def scored(model: Any, *args: Any, **kwargs: Any) -> Any:
        output = score(model, *args, **kwargs)
        seen["reference" if model is trainer.ref_model else "policy"] = output[0].detach().double()
        return output

    def went_back(loss: torch.Tensor, **kwargs: Any) -> None:
        seen["loss"] = loss.item()
        backward(loss, **kwargs)
        seen["gradient"] = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    trainer._get_per_token_logps_and_entropies, trainer.accelerator.backward = scored, went_back
    trainer.train()
    seen["bytes"] = sum(weight.numel() * weight.element_size() for weight in trainer.ref_model.parameters())
    seen["kl"] = next(entry["kl"] for entry in trainer.state.log_history if "kl" in entry)
    return seen


def compare_steps(step: dict[str, Any], whole: dict[str, Any]) -> dict[str, float]:
    """Return a step's figures beside those of the step with the whole reference."""
    gap = step["reference"] - whole["reference"]
    gradient = (step["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()
    return {
        "log_prob_gap_mean": gap.abs().mean().item(),
        "log_prob_gap_max": gap.abs().max().item(),
        "log_prob_bias": gap.mean().item(),
        "kl": step["kl"],
        "kl_added": step["kl"] - whole["kl"],
        "loss_gap": abs(step["loss"] - whole["loss"]),
        "gradient_gap": gradient.item(),
        "bytes": step["bytes"],
    }


def format_row(arm: dict[str, Any]) -> str:
    """Return an arm as a row of Markdown."""
    words = [arm[name] for name in ("weights", "arithmetic", "policy", "reference")]
    names = ("log_prob_gap_mean", "log_prob_gap_max", "kl", "kl_added", "loss_gap", "gradient_gap")
    return f"| {' | '.join([*words, *(f'{arm[name]:.1e}' for name in names)])} | {arm['bytes'] / 1e6:.1f} |"


if __name__ == "__main__":
    main()
