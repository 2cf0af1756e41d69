"""The interval of a share."""

import math

# The standard normal quantile of a two-sided 95% interval
Z_95 = 1.959963984540054


def wilson_interval(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, which stays inside [0, 1] and is honest near both ends.

    Args:
        successes: how many of the `n` trials succeeded.
        n: trials, or as many independent ones as they are worth; with none, nothing is known: (0, 1).
        z: normal quantile; the default makes a 95% interval.

    Raises:
        ValueError: if `successes` is not between 0 and `n`.

    >>> tuple(round(bound, 4) for bound in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson_interval was given {successes} successes in {n} trials. Expected 0 to {n}.")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - margin) / scale, (centre + margin) / scale
    return low if successes else 0.0, high if successes < n else 1.0  # but for rounding
