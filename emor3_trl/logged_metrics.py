"""What a run logs, explained: each metric's name, unit, meaning, healthy range, and what to do outside of it.

docs/METRICS.md is made from these records, and a test compares them with what real runs log.
"""

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
