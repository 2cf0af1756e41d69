"""What a reward curve hides, step by step: numbers of each rollout, probes of the judge, and alarms."""

from emor3_trl.diagnostics.advantages import (
    RewardSum,
    measure_advantages,
    split_advantages,
    sum_rewards,
    zero_spread_share,
    zero_spreads,
)
from emor3_trl.diagnostics.alarms import ALARMS, Alarm, judge_alarms
from emor3_trl.diagnostics.completions import (
    average_by_emotion,
    count_malformed,
    diagnose,
    entropy,
    names_valence,
)
from emor3_trl.diagnostics.explained import DIAGNOSTICS
from emor3_trl.diagnostics.probes import ask_probes
from emor3_trl.label_words import names_emotion

__all__ = [
    "ALARMS",
    "DIAGNOSTICS",
    "Alarm",
    "RewardSum",
    "ask_probes",
    "average_by_emotion",
    "count_malformed",
    "diagnose",
    "entropy",
    "judge_alarms",
    "measure_advantages",
    "names_emotion",
    "names_valence",
    "split_advantages",
    "sum_rewards",
    "zero_spread_share",
    "zero_spreads",
]
