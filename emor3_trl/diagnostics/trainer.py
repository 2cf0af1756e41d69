"""A trainer that is watched: diagnostics of each rollout, probes every few steps, and alarms on what is logged."""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import Trainer

from emor3_trl.diagnostics.advantages import RewardSum, measure_advantages, sum_rewards, zero_spreads
from emor3_trl.diagnostics.alarms import judge_alarms
from emor3_trl.diagnostics.completions import average_by_emotion, count_malformed, diagnose, measure_switches
from emor3_trl.reward_columns import ANSWERS, REFLECTED_COLUMNS, SWITCHED_COLUMNS
from emor3_trl.thinking import StructuredThinking

logger = logging.getLogger(__name__)

_COLUMNS = ("emotion", "label_space", *ANSWERS)


class DiagnosedTrainer(Trainer):
    """Tells what a reward curve hides; mix it in before a trainer of TRL whose rollout knows its groups.

    `reflects` says whether the policy is asked about its own steps.
    """

    reflects: bool
    rollout: Any
    _probed_step: int | None = None  # the last step whose first rollout was generated

    def _diagnose(
        self,
        rows: Sequence[dict[str, Any]],
        texts: Sequence[str],
        thinking: Sequence[StructuredThinking | None],
        completion_ids: Sequence[Sequence[int]],
        earned: np.ndarray,
    ) -> dict[str, float]:
        """Return the diagnostics of a rollout.

        All processes' completions are looked at together: those of one process may be about one image, where every
        answer is a favourite. A fault in this is told, and does not end the run.

        Args:
            rows: N rows of this process, with the reflection's answers.
            texts: their completions.
            thinking: the completions as `parse` reads them.
            completion_ids: their tokens.
            earned: rewards of the completions of all processes, shape (completions, functions).
        """
        ends = (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)
        cut_off = [len(ids) > 0 and ids[-1] not in ends for ids in completion_ids]
        told = zip(rows, texts, thinking, cut_off, self.rollout.groups, strict=True)
        completions = gather_object(
            [
                {"text": text, "thinking": thought, "cut_off": is_cut, "group": group}
                | {name: row.get(name) for name in _COLUMNS}
                | {name: row[name] for name in SWITCHED_COLUMNS if name in row}
                for row, text, thought, is_cut, group in told
            ]
        )
        try:
            return self._measure(completions, earned)
        except Exception:  # the same in all processes, which hold the same
            if self.accelerator.is_main_process:
                logger.warning("Step %d has no diagnostics.", self.state.global_step + 1, exc_info=True)
            return {}

    def _measure(self, completions: Sequence[dict[str, Any]], earned: np.ndarray) -> dict[str, float]:
        names, weights, group_size = self.reward_func_names, self.reward_weights.tolist(), self._group_size
        how = RewardSum(
            names, weights, group_size, self._list_reflective(), self.scale_rewards, self.multi_objective_aggregation
        )
        metrics = zero_spreads(earned, names, weights, group_size) | measure_advantages(earned, how)
        form = "set" if self.reflects or "format_reward" in names else None
        form = "think" if "think_format_reward" in names else form
        if form:
            cut_off = [row["cut_off"] for row in completions]
            metrics |= count_malformed([row["text"] for row in completions], form, cut_off)
        metrics |= measure_switches({name: [row[name] for row in completions] for name in completions[0]})
        # A data set of several sources may know the emotion of some rows alone
        known = [place for place, row in enumerate(completions) if None not in (row["emotion"], row["label_space"])]
        if known:
            columns = {name: [completions[place][name] for place in known] for name in completions[0]}
            metrics |= diagnose(columns["text"], columns, columns["group"], columns["thinking"])
            metrics |= average_by_emotion(sum_rewards(earned, weights)[known], columns["emotion"])
        return metrics

    def _list_reflective(self) -> list[str]:
        """Return the names of the reward functions that read the reflection's answers."""
        functions = zip(self.reward_func_names, self.reward_funcs, strict=True)
        columns = set(REFLECTED_COLUMNS)
        return [name for name, function in functions if inspect.signature(function).parameters.keys() & columns]

    def _is_probed(self) -> bool:
        """Return whether a multiple of `probe_steps` is among the optimizer steps that this rollout is for."""
        every, step = self.args.probe_steps, self.state.global_step
        if not (every and self.model.training):  # an evaluation asks none, and leaves the next rollout's to it
            return False
        is_first = step != self._probed_step  # dynamic sampling takes several rollouts
        self._probed_step = step
        rounds = self.args.steps_per_generation * self.num_iterations
        updates = max(rounds // self.args.gradient_accumulation_steps, 1)
        return is_first and (step + updates) // every > step // every

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and judge the alarms on what is logged."""
        if self.model.training:
            numbers = {name: _mean(values) for name, values in self._metrics["train"].items()}
            alarms, lines = judge_alarms(
                {name: value for name, value in numbers.items() if value is not None}, self.state.log_history
            )
            logs.update(alarms)
            for line in lines if self.accelerator.is_main_process else ():
                logger.warning("Step %d: %s", self.state.global_step, line)
        super().log(logs, start_time)


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of what is a number, as TRL logs it."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None
