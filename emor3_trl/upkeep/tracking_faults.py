"""What W&B or trackio does not take ends neither a training nor an evaluation: the run's own folder has it all."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def warn_of_faults(refusal: str) -> Iterator[None]:
    """Turn an error into a warning.

    Args:
        refusal: what was not taken, by whom; the error follows it.
    """
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s", refusal, " ".join(str(error).split()))
