"""What a training recipe can be told beside the model's and the trainer's own arguments."""

from dataclasses import dataclass, field
from typing import Literal

from emor3_trl.config_checks import check_numbers


@dataclass
class RunArguments:
    """What a training recipe needs beside the model's and the trainer's own arguments."""

    data: str = field(metadata={"help": "Folder of prepared data: <split>.parquet and manifest.json."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on while training."})
    prompt_style: Literal["set", "think", "direct"] = field(
        default="set",
        metadata={"help": "'set' (structured), 'think' (plain) or 'direct' answers."},
    )
    max_samples: int | None = field(default=None, metadata={"help": "Train on at most this many samples."})
    processes: int | None = field(
        default=None,
        metadata={"help": "Processes (GPUs) that the batch is written for. Another number is an error."},
    )
    plan: bool = field(default=False, metadata={"help": "Print what would run, and stop."})
    overwrite: bool = field(default=False, metadata={"help": "Replace another run in output_dir."})

    def __post_init__(self) -> None:
        check_numbers(self, dict.fromkeys(("max_samples", "processes"), "1 or more"))


@dataclass
class GRPOArguments(RunArguments):
    """`RunArguments` with validation while training."""

    validation_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits of data, or <folder>/<split>, to validate on. The first one's accuracy decides "
            "which checkpoint is the best."
        },
    )
    validation_steps: int = field(default=10, metadata={"help": "Optimiser steps between two validations."})
    validation_samples: int | None = field(default=None, metadata={"help": "At most this many images of each split."})
    validation_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many validations without a higher accuracy."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = ("validation_steps", "validation_samples", "validation_patience")
        check_numbers(self, dict.fromkeys(numbers, "1 or more"))
        for name in ("validation_samples", "validation_patience"):
            if getattr(self, name) is not None and not self.validation_splits:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but nothing is validated. Set validation_splits, or leave "
                    f"{name} unset."
                )
