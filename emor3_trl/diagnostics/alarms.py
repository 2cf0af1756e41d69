"""Alarms: limits of logged metrics, each with one sentence of what it means and one of what to do.

An alarm is judged on what a run logs: it is 1 where the last `patience` logged values of its metric lie beyond its
limit, so that one noisy step does not fire it. It needs nothing but the log, so a resumed run has the same alarms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any


@dataclass(frozen=True)
class Alarm:
    """A limit of a logged metric.

    Args:
        name: it is logged as `alarms/<name>`, 1 while it fires and 0 otherwise.
        metric: the metric that it watches.
        meaning: what it means when it fires.
        action: what to do.
        above: it fires above this value; None for one that fires below.
        below: it fires below this value.
        patience: logged values in a row beyond the limit.
        parts: beginning of the names of the metrics that the watched one is the sum of; the message names the largest.
    """

    name: str
    metric: str
    meaning: str
    action: str
    above: float | None = None
    below: float | None = None
    patience: int = 3
    parts: str = ""

    @property
    def limit(self) -> str:
        """The limit in words."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    def is_beyond(self, value: float) -> bool:
        """Return whether a value lies beyond the limit."""
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


ALARMS = (
    Alarm(
        "judge_says_yes", "diagnostics/shuffled_yes", above=0.5, patience=2,
        meaning="The policy finds step 1 true of an image that it is not about, so its consistency reward is a gift.",
        action="Read its triggers: are they true of any image? Lower lambda1, or train from a stronger base.",
    ),
    Alarm(
        "label_carries_coherence", "diagnostics/masked_coherence", below=0.7, patience=2,
        meaning="With the label words masked, steps 1 and 2 no longer lead to the same emotion: they name it and "
        "describe nothing.",
        action="Read steps 1 and 2. Lower lambda1, or add a reward of your own that forbids labels in them.",
    ),
    Alarm(
        "steps_name_label", "diagnostics/thinking_names_emotion", above=0.5,
        meaning="Most completions name an emotion of the list in step 1 or 2, which gives the coherence question away.",
        action="Look at diagnostics/masked_coherence: if it falls too, the steps are not about the image.",
    ),
    Alarm(
        "unspecific_trigger", "diagnostics/trigger_specificity", below=0.05,
        meaning="Step 1 says of every image the same: it shares as many words with other images' as with siblings'.",
        action="Read step 1 of several images. Stop, raise beta, or train from a base that describes what it sees.",
    ),
    Alarm(
        "collapsed_answers", "diagnostics/favourite_excess", above=0.5,
        meaning="One answer is given far more often than it is right, whatever the image shows.",
        action="Stop. Balance the emotions of the data, raise beta, or lower the learning rate.",
    ),
    Alarm(
        "thinking_ignored", "diagnostics/agreement", below=0.4,
        meaning="The answer is mostly another emotion than the one that the policy reads from its own steps 1 and 2.",
        action="Read completions: is the thinking a formality? Raise lambda1, or start from the cold start.",
    ),
    Alarm(
        "conclusion_contradicts", "diagnostics/conclusion_contradicts_answer", above=0.5,
        meaning="Step 3 calls most answers positive that are negative, or the other way round.",
        action="Read step 3 beside the answer. Start from the cold start, or from a stronger base.",
    ),
    Alarm(
        "malformed", "diagnostics/malformed", above=0.3, parts="diagnostics/malformed/",
        meaning="Many completions do not have the form that is asked for, so no reward but accuracy reaches them.",
        action="cut_off: raise max_completion_length. Else raise lambda2 or beta, or start from the cold start.",
    ),
    Alarm(
        "only_reflection_decides", "diagnostics/only_reflection_decides", above=0.7,
        meaning="In most groups accuracy and format are equal, so the policy's own judgement makes the whole "
        "advantage, whatever lambda1 is.",
        action="Use harder data, dynamic_sampling: accuracy, or scale_rewards: none, which keeps lambda1's weight.",
    ),
    Alarm(
        "dead_groups", "diagnostics/zero_spread/overall", above=0.9,
        meaning="Nearly all groups earn the same reward for each completion, so steps teach nothing.",
        action="Use harder (or easier) data, dynamic_sampling: spread, a higher temperature, or stop: it has learned.",
    ),
    Alarm(
        "no_exploration", "entropy", below=0.01,
        meaning="The policy is certain of nearly every token, so the completions of a group are copies of one another.",
        action="Raise temperature or beta, lower the learning rate, or go back to an earlier checkpoint.",
    ),
)  # fmt: skip


def judge_alarms(
    values: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], list[str]]:
    """Return what each alarm says of the values that are about to be logged, and a line for each that begins to fire.

    Args:
        values: metrics by name; an alarm whose metric is not there is not judged.
        history: the entries that were logged before, the oldest first (`trainer.state.log_history`).

    Returns:
        `alarms/<name>`, 0 or 1, and the lines, one for each alarm that fires and did not fire when it was judged last.
    """
    metrics, lines = {}, []
    for alarm in ALARMS:
        if alarm.metric not in values:
            continue
        value, name = values[alarm.metric], f"alarms/{alarm.name}"
        recent = [value, *_last_values(history, alarm.metric, alarm.patience - 1)]
        fires = len(recent) == alarm.patience and all(map(alarm.is_beyond, recent))
        metrics[name] = float(fires)
        if fires and 1.0 not in _last_values(history, name, 1):
            parts = {key.removeprefix(alarm.parts): part for key, part in values.items() if key.startswith(alarm.parts)}
            largest = max(parts, key=lambda part: parts[part]) if alarm.parts and parts else None
            most = f" Most often: {largest} ({parts[largest]:.2f})." if largest else ""
            lines.append(
                f"Alarm {alarm.name}: {alarm.metric} is {value:.2f}, {alarm.limit} {alarm.patience} times in a row."
                f"{most} {alarm.meaning} {alarm.action}"
            )
    return metrics, lines


def _last_values(history: Sequence[Mapping[str, Any]], name: str, count: int) -> list[float]:
    """Return the last values that were logged of a metric, the newest first."""
    return list(islice((entry[name] for entry in reversed(history) if entry.get(name) is not None), count))
