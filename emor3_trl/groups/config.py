"""`GroupConfig`: `trl.GRPOConfig` with what `GroupTrainer` adds to it."""

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from emor3_trl.groups.checks import check_choices, check_skipping
from emor3_trl.groups.reference import check_reference_dtype
from emor3_trl.masking import mask_secrets


@dataclass
class GroupConfig(GRPOConfig):
    """`trl.GRPOConfig` with the fields of `GroupTrainer`; each help text names the source of its default."""

    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Compute a group's prompt and image once; same numbers."},
    )
    skip_flat_groups: bool = field(
        default=False,
        metadata={
            "help": "Groups of equal rewards: no forward, no KL. With beta 0, those whose advantages are exactly 0 "
            "cost none anyway; this adds those that TRL's mean rounds. rollout/skipped_share logs how many."
        },
    )
    dynamic_sampling: str = field(
        default="none",
        metadata={
            "help": "Refill dropped groups: none, spread, reward, accuracy. 'spread' keeps groups whose "
            "overall rewards differ; 'reward' those whose mean overall reward lies between 0.01 and 0.99, as the "
            "reference's DAPO does; 'accuracy' those that are neither all right nor all wrong."
        },
    )
    dynamic_sampling_tries: int = field(
        default=20, metadata={"help": "Most rollouts to fill one batch, the first included (reference: 20)."}
    )
    dynamic_sampling_starved: str = field(
        default="keep",
        metadata={
            "help": "A batch that stays short: 'keep' and go on, or 'stop'. Either way dropped groups fill it, without "
            "an advantage, and it is trained on; 'stop' then saves a checkpoint and ends the run."
        },
    )
    log_completions_steps: int = field(
        default=10,
        metadata={"help": "Steps between two tables in W&B or trackio. The Parquet files hold every step."},
    )
    ref_model_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type of the reference: bfloat16; none: as the policy. In bfloat16 it takes half the memory beside "
            "a policy in float32 (which it may be, too); docs/REAL_SIZE.md says what changes."
        },
    )
    vllm_engine_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Further options of vllm.LLM, as JSON. They win over what TRL and this project set, e.g. dtype, "
            "enforce_eager, block_size, limit_mm_per_prompt."
        },
    )

    # Fields that may be given as JSON on the command line
    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "vllm_engine_options"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields without secrets, as trackers get them."""
        return mask_secrets(super().to_dict())

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check_skipping(self)
        check_reference_dtype(self)
        for name in ("dynamic_sampling_tries", "log_completions_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected 1 or more.")
        batch_wide = {
            "scale_rewards": self.scale_rewards == "batch",
            "multi_objective_aggregation": self.multi_objective_aggregation == "normalize_then_sum",
        }
        for name in (name for name, is_set in batch_wide.items() if is_set and self.dynamic_sampling != "none"):
            raise ValueError(
                f"{name} is '{getattr(self, name)}', which scales advantages over one rollout, and dynamic_sampling is "
                f"'{self.dynamic_sampling}', which makes a batch of several. Leave {name} at its default, or set "
                "dynamic_sampling: none."
            )
