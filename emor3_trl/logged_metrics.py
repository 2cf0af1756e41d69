"""What a run logs, explained: each metric's name, unit, meaning, healthy range, and what to do outside of it.

docs/METRICS.md is made from these records, and a test compares them with what real runs log.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LoggedMetric:
    """A metric that a run logs.

    Args:
        name: as TRL's trainer logs it, without W&B's prefix; `<…>` stands for a part that varies, as in
            `rewards/<reward>/mean`.
        unit: of its values, such as 'share', 'tokens' or 'seconds'.
        meaning: what it measures.
        healthy: which values a run that learns shows.
        action: what to do outside of these.
    """

    name: str
    unit: str
    meaning: str
    healthy: str
    action: str

    def matches(self, key: str) -> bool:
        """Return whether a logged key is this metric; a varying part is one part of the key between slashes.

        >>> LoggedMetric("rewards/<reward>/mean", "", "", "", "").matches("rewards/accuracy_reward/mean")
        True
        """
        return re.fullmatch(re.sub(r"<\w+>", "[^/]+", self.name), key) is not None


# Of training, by group
REWARDS = (
    LoggedMetric(
        "reward", "points", "mean of the weighted sum of all rewards", "rises, with noise from batch to batch",
        "Flat from the start: look at frac_reward_zero_std and at the completions. Falling: lower the learning "
        "rate.",
    ),
    LoggedMetric(
        "reward_std", "points", "standard deviation of the overall reward",
        "above 0.05 while the policy still learns",
        "Near 0: the completions earn alike. Raise temperature, or use dynamic_sampling.",
    ),
    LoggedMetric(
        "frac_reward_zero_std", "share",
        "groups whose completions all earn the same, so that nothing is learned from them", "below 0.5",
        "Above 0.8: the data are too easy or too hard. Use dynamic_sampling, or other data.",
    ),
    LoggedMetric(
        "rewards/<reward>/mean", "points", "mean of one reward before its weight",
        "accuracy rises, format is above 0.9",
        "One rises while accuracy falls: the policy cheats on it. Read the completions, lower its weight.",
    ),
    LoggedMetric(
        "rewards/<reward>/std", "points", "standard deviation of one reward",
        "above 0 for each reward that is to teach", "0 for many steps: this reward no longer teaches anything.",
    ),
)  # fmt: skip
REFLECTION = (
    LoggedMetric(
        "reflection/requests", "questions",
        "questions that one process asked, two for each of its well-formed completions, three with "
        "contrastive_consistency; equal ones once",
        "about two for each completion of a process",
        "Far fewer: many completions are malformed. Look at the format reward.",
    ),
    LoggedMetric(
        "reflection/contrast_requests", "questions",
        "with contrastive_consistency: those of them about another image alone", "at most half of the others",
        "0: no rollout of a process holds two images. See diagnostics/contrasted.",
    ),
    LoggedMetric(
        "reflection/prompt_tokens", "tokens", "tokens of these questions", "steady",
        "Rising: the completions grow longer.",
    ),
    LoggedMetric(
        "reflection/cached_tokens", "tokens",
        "those of them that vLLM had in its prefix cache; 0 with the transformers engine",
        "more than half of the prompt tokens with vLLM",
        "Far fewer: leave vLLM's prefix caching on and its cache large enough.",
    ),
    LoggedMetric(
        "reflection/generated_tokens", "tokens", "tokens that were written as answers",
        "one to a few for each question", "Many: the labels of the label space are long words for this tokenizer.",
    ),
)  # fmt: skip
ROLLOUT = (
    LoggedMetric(
        "rollout/completions", "completions",
        "completions of a step in all processes, with those of dynamic sampling's further tries",
        "the size of a batch, or a small multiple",
        "Many times the batch: most groups are dropped. See rollout/dropped_share.",
    ),
    LoggedMetric(
        "rollout/tokens_per_second", "tokens/s", "completion tokens that one process generates in a second", "steady",
        "Falling: the completions grow, or another program uses the device.",
    ),
    LoggedMetric(
        "rollout/skipped_share", "share",
        "with beta 0 or skip_flat_groups: completions whose group has no advantage, so that they need no forward",
        "below 0.5", "Near 1: most groups teach nothing. Take other data, or dynamic_sampling.",
    ),
    LoggedMetric(
        "rollout/dropped_share", "share", "with dynamic sampling: judged groups that the rule dropped", "below 0.7",
        "Near 1: the prompts are too easy or too hard for this policy.",
    ),
    LoggedMetric(
        "rollout/tries", "rollouts", "with dynamic sampling: rollouts that it took to fill the batch", "1 to 3",
        "At dynamic_sampling_tries: the pool starves. Take more or other data.",
    ),
    LoggedMetric(
        "rollout/starved_share", "share",
        "with dynamic sampling: places of the batch that stayed without a useful group", "0",
        "Above 0: the batch teaches less than it costs. Stop, or take other data.",
    ),
    LoggedMetric(
        "completions/mean_length", "tokens", "mean length of a completion",
        "steady, well below max_completion_length",
        "Growing without more reward: add overlong_buffer. Shrinking: are the steps still there?",
    ),
    LoggedMetric(
        "completions/min_length", "tokens", "shortest completion", "above the length of empty steps",
        "A few tokens: malformed completions. Look at the format reward.",
    ),
    LoggedMetric(
        "completions/max_length", "tokens", "longest completion", "below max_completion_length",
        "At the limit in each step: see completions/clipped_ratio.",
    ),
    LoggedMetric(
        "completions/clipped_ratio", "share", "completions that were cut off at max_completion_length", "below 0.05",
        "Higher: raise max_completion_length, or add overlong_buffer.",
    ),
    LoggedMetric(
        "completions/mean_terminated_length", "tokens", "mean length of the completions that ended by themselves",
        "as completions/mean_length", "0: none ended. Raise max_completion_length.",
    ),
    LoggedMetric(
        "completions/min_terminated_length", "tokens", "shortest of the completions that ended by themselves",
        "as completions/min_length", "A few tokens: malformed completions. Look at the format reward.",
    ),
    LoggedMetric(
        "completions/max_terminated_length", "tokens", "longest of the completions that ended by themselves",
        "below max_completion_length", "At the limit: raise max_completion_length.",
    ),
    LoggedMetric(
        "images/requested", "images", "images that one process's rows asked for, copies included",
        "completions of a step in a process", "Another number: rows without an image are in the data.",
    ),
    LoggedMetric(
        "images/processed", "images", "images that the processor worked on", "one for each group with vLLM",
        "As many as images/requested with vLLM: the rows of a group do not share their image.",
    ),
    LoggedMetric(
        "images/decoded", "images", "images that were decoded from their files", "one for each group",
        "Higher: the rows of a group do not share their image.",
    ),
    LoggedMetric(
        "shared_prefix/token_share", "share", "tokens of the packed forward, as a share of those of an ordinary one",
        "about 1/G for long prompts, up to 1 for short ones",
        "1 with long prompts: groups are split over micro-batches. The log said so at the start.",
    ),
    LoggedMetric(
        "sampling/sampling_logp_difference/mean", "nats",
        "mean gap between the engine's log-probabilities and the trainer's, of the completions that are trained on",
        "below 1e-4 in float32, 0.03 in bfloat16",
        "Higher: the rollouts are not on-policy. The run warns, and stops at parity_stop.",
    ),
    LoggedMetric(
        "sampling/sampling_logp_difference/max", "nats", "largest such gap of a token",
        "below 1e-2 in float32, 1 in bfloat16", "A rising maximum with a steady mean is noise of bfloat16.",
    ),
    LoggedMetric(
        "sampling/importance_sampling_ratio/min", "ratio", "smallest weight that corrects for this gap", "near 1",
        "Near 0: see sampling/sampling_logp_difference/mean.",
    ),
    LoggedMetric(
        "sampling/importance_sampling_ratio/mean", "ratio", "mean weight that corrects for this gap", "0.99 to 1.01",
        "Otherwise: see sampling/sampling_logp_difference/mean.",
    ),
    LoggedMetric(
        "sampling/importance_sampling_ratio/max", "ratio", "largest weight that corrects for this gap", "near 1",
        "At the clip: see sampling/sampling_logp_difference/mean.",
    ),
)  # fmt: skip
OPTIMISATION = (
    LoggedMetric(
        "loss", "nats", "the loss; in GRPO its level says little, because advantages have mean 0",
        "GRPO: around 0. Cold start: falls",
        "Cold start, not falling: raise the learning rate. It explodes: lower it.",
    ),
    LoggedMetric(
        "grad_norm", "norm", "length of the gradient before it is clipped",
        "steady, a few times max_grad_norm at most",
        "It explodes: lower the learning rate. 0: no group has an advantage.",
    ),
    LoggedMetric(
        "learning_rate", "rate", "learning rate of the step", "as the schedule says",
        "Another one: look at config.yaml.",
    ),
    LoggedMetric(
        "epoch", "passes", "passes over the training rows so far", "rises", "It stands still: the data loader waits.",
    ),
    LoggedMetric("num_tokens", "tokens", "tokens that were trained on so far", "rises", "It is a counter."),
    LoggedMetric(
        "kl", "nats", "distance of the policy from the reference model, with beta > 0",
        "below 0.1 for a 3B model; a young small one drifts further",
        "It explodes: raise beta, or lower the learning rate.",
    ),
    LoggedMetric(
        "entropy", "nats", "mean entropy of the policy's next token, in groups that were not skipped",
        "falls slowly, and stays above 0",
        "Near 0: the policy has collapsed. Lower the learning rate, raise beta or epsilon_high.",
    ),
    LoggedMetric(
        "clip_ratio/low_mean", "share", "tokens whose ratio was clipped from below", "below 0.1",
        "Higher: the updates are too large. Lower the learning rate or num_iterations.",
    ),
    LoggedMetric("clip_ratio/low_min", "share", "smallest such share of a completion", "0", "See clip_ratio/low_mean."),
    LoggedMetric(
        "clip_ratio/high_mean", "share", "tokens whose ratio was clipped from above", "below 0.1",
        "Higher: the updates are too large. Lower the learning rate or num_iterations.",
    ),
    LoggedMetric(
        "clip_ratio/high_max", "share", "largest such share of a completion", "below 0.5",
        "See clip_ratio/high_mean.",
    ),
    LoggedMetric(
        "clip_ratio/region_mean", "share", "tokens that were clipped on either side",
        "below 0.1; 0 with one update for each rollout",
        "Higher: the updates are too large. Lower the learning rate or num_iterations.",
    ),
    LoggedMetric(
        "cispo_clip_ratio", "share", "with loss_type cispo: tokens whose weight was clipped", "below 0.1",
        "Higher: the updates are too large. Lower the learning rate.",
    ),
    LoggedMetric(
        "vespo/phi_seq_mean", "weight", "with loss_type vespo: mean weight of a completion", "near 1",
        "Near 0: the rollouts are far from the policy. Lower num_iterations.",
    ),
    LoggedMetric(
        "entropy_coef", "weight", "with entropy_coef: weight of the entropy bonus",
        "as it was set, or slowly adapting", "At entropy_coef_max for long: entropy_target cannot be reached.",
    ),
    LoggedMetric(
        "policy_loss", "nats", "with entropy_coef: the loss without the entropy bonus", "around 0", "See loss.",
    ),
    LoggedMetric(
        "mean_token_accuracy", "share", "cold start: answer tokens that were predicted rightly", "rises above 0.9",
        "It stays low: more epochs, or a larger learning rate.",
    ),
    LoggedMetric("train_loss", "nats", "mean loss of the whole run, once at its end", "see loss", "See loss."),
    LoggedMetric("total_flos", "FLOP", "estimate of the work of the whole run; 0 in GRPO", "–", "It is a record."),
)  # fmt: skip
TIME = (
    LoggedMetric(
        "step_time", "seconds",
        "forward, backward and rollout of an optimizer step; the optimizer itself is not in it", "steady",
        "Growing: look at which part of it grows.",
    ),
    LoggedMetric(
        "time/rollout", "seconds", "of step_time: generating completions", "the largest part on a GPU",
        "Growing: the completions grow, see completions/mean_length.",
    ),
    LoggedMetric(
        "time/reflection", "seconds", "of step_time: asking both questions", "a third of time/rollout or less",
        "More: see reflection/cached_tokens.",
    ),
    LoggedMetric(
        "time/rewards", "seconds", "of step_time: computing the rewards, and waiting for the other processes",
        "far below a second", "More: a reward of your own is slow, or one process is.",
    ),
    LoggedMetric(
        "time/training", "seconds", "of step_time: the rest, above all forward and backward", "steady",
        "Growing: the completions grow, or memory is short.",
    ),
    LoggedMetric(
        "time/validation", "seconds", "one validation on validation_splits",
        "less than a step times validation_steps / 10", "More: lower validation_samples, or raise validation_steps.",
    ),
    LoggedMetric("train_runtime", "seconds", "the whole training, once at its end", "–", "It is a record."),
    LoggedMetric(
        "train_samples_per_second", "rows/s",
        "completions (cold start: examples) that were trained on in a second, over the run", "–", "It is a record.",
    ),
    LoggedMetric(
        "train_steps_per_second", "steps/s", "optimizer steps in a second, over the run", "–", "It is a record.",
    ),
)  # fmt: skip
VALIDATION = (
    LoggedMetric(
        "eval/<dataset>/accuracy", "share", "greedy answers that are right", "rises; out of domain it does not fall",
        "It falls while the reward rises: the policy learns the training pictures by heart, or cheats. Stop at "
        "the best one.",
    ),
    LoggedMetric(
        "eval/<dataset>/format_rate", "share", "greedy completions that are well formed", "above 0.9",
        "Falling: raise lambda2 or beta.",
    ),
    LoggedMetric("eval_loss", "nats", "with eval_split: the loss on it", "see loss", "See loss."),
    LoggedMetric("eval_runtime", "seconds", "with eval_split: one pass over it", "–", "It is a record."),
    LoggedMetric("eval_samples_per_second", "rows/s", "with eval_split: rows in a second", "–", "It is a record."),
    LoggedMetric("eval_steps_per_second", "steps/s", "with eval_split: batches in a second", "–", "It is a record."),
)  # fmt: skip
