"""The parity canary: are rollouts sampled from the policy that is being trained?

Every step TRL compares the log-probability that vLLM reports for each sampled token with the trainer's own. The two are
equal up to rounding when both hold the same weights and see the same prompt; anything else is an error that no reward
curve shows.
"""

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

CAUSES = """Look for, in this order:
  1. stale weights: a weight that the optimizer changed did not reach vLLM (a tied lm_head, an adapter that was not
     merged, packed CPU weights);
  2. a stale encoder cache: the vision tower is trained and a picture that came before is answered from its old
     embedding (only rollouts of returning pictures differ);
  3. an expanded prompt: image tokens were expanded twice, or the pixel budgets of vLLM and of the trainer differ;
  4. another distribution: dropout in training (lora_dropout), dtype (vllm_engine_options.dtype), temperature or
     top-k/top-p that only one side applies."""


class OffPolicyError(RuntimeError):
    """Rollouts are not sampled from the policy."""


@dataclass
class ParityCanary:
    """Warns, then stops, when vLLM and the trainer disagree.

    Args:
        warn: mean |log-prob difference| (nats per token) above which a warning is given.
        stop: mean |log-prob difference| above which a step counts as bad.
        patience: bad steps in a row that stop the run.
    """

    warn: float
    stop: float
    patience: int
    bad_steps: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def for_dtype(cls, dtype: str, warn: float | None, stop: float | None, patience: int | None) -> "ParityCanary":
        """Return the canary with the expected band of `dtype`, where the three values are not given.

        float32 differs by rounding only: 1e-4, at once. Published healthy bfloat16 runs show 0.015 and stale ones 0.2:
        warning above 0.03, stop above 0.1 in three steps in a row.
        """
        exact = dtype == "float32"
        return cls(
            warn=warn if warn is not None else (1e-4 if exact else 0.03),
            stop=stop if stop is not None else (1e-4 if exact else 0.1),
            patience=patience if patience is not None else (1 if exact else 3),
        )

    def check(self, gap: float, step: int) -> None:
        """Look at one step's mean |log-prob difference|.

        Raises:
            OffPolicyError: after `patience` bad steps in a row; the message names the causes to look for.
        """
        if not gap <= self.stop:  # a NaN is bad, too
            self.bad_steps.append((step, gap))
        else:
            self.bad_steps.clear()
        if len(self.bad_steps) >= self.patience:
            history = ", ".join(f"{value:.2g} at step {number}" for number, value in self.bad_steps)
            raise OffPolicyError(
                f"Rollouts are off-policy: the mean |log-prob difference| between vLLM and the trainer is {history}; "
                f"expected at most {self.stop:g}. {CAUSES}\nThe band is set by parity_warn, parity_stop and "
                "parity_patience."
            )
        if not gap <= self.warn:
            logger.warning(
                "Step %d: mean |log-prob difference| between vLLM and the trainer is %.2g, above %g. %s",
                step,
                gap,
                self.warn,
                CAUSES,
            )
