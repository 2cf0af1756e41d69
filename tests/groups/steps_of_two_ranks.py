"""What `test_one_pass` starts on two ranks: gaps beside a pass of their own, a stop, and skipped groups."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from scored_rollouts import OPTIONS, scored_completions
from training import spread_only_on, tiny_trainer

from emor3_trl import EmoR3Trainer
from emor3_trl.engines.parity import OffPolicyError, ParityCanary
from emor3_trl.groups.skipping import SkippingTrainer


def record_gaps(trainer: EmoR3Trainer) -> list[list[float]]:
    """Return a list that gets the gaps of each rollout of this process, as a pass before the loss gives them."""
    prepare, gaps = trainer._prepare_inputs, []

    def prepared(rows: Any) -> Any:
        batch = prepare(rows)
        fields = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        parts = [torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")]
        with torch.no_grad():
            old, *_ = trainer._get_per_token_logps_and_entropies(
                trainer.model, *parts, batch["completion_ids"].shape[1], **{name: batch.get(name) for name in fields}
            )
        gap = (old - batch["sampling_per_token_logps"]).abs()[batch["completion_mask"].bool()]
        gaps.append(gap[~gap.isnan()].tolist())
        return batch

    trainer._prepare_inputs = prepared
    return gaps


def main() -> None:
    model_dir, folder = Path(sys.argv[1]), Path(sys.argv[2])
    EmoR3Trainer._generate_single_turn = scored_completions
    options = {**OPTIONS, "per_device_train_batch_size": 4, "max_steps": 2}
    trainer = tiny_trainer(model_dir, folder / "once", **options)
    gaps = record_gaps(trainer)
    trainer.train()
    log = trainer.state.log_history  # which the next training begins anew
    trainer.parity = ParityCanary(warn=1e9, stop=0.0, patience=1)
    moved = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.args.max_steps = 3
    try:
        trainer.train()
        stopped = False
    except OffPolicyError:  # in both processes, or one of them would wait for the other
        stopped = all(map(torch.equal, trainer.model.parameters(), moved))
    result: dict[str, Any] = {"gaps": gaps, "stopped": stopped, "log": log, "runs": {}}
    # Pictures on one process only, and groups without an advantage on one, on both, on none
    options |= {"use_vllm": False, "beta": 0.0, "pictures": "half", "max_steps": 4}
    for name in ("skipping", "whole"):
        trainer = tiny_trainer(model_dir, folder / name, reward_funcs=spread_only_on("0", "5", "6"), **options)
        trainer.train()
        weights = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters()}
        result["runs"][name] = trainer.state.log_history
        torch.save(weights, folder / f"{name}.pt")
        SkippingTrainer._skips_groups = False
    rank = trainer.accelerator.process_index
    (folder / f"rank_{rank}.json").write_text(json.dumps(result))
    (folder / "history.json").write_text(json.dumps({"processes": trainer.accelerator.num_processes}))


if __name__ == "__main__":
    main()
