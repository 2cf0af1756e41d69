"""What a training recipe can be told, and what it refuses by itself."""

import pytest

from emor3_trl.run.arguments import RunArguments


@pytest.mark.parametrize("name", ["max_samples", "processes"])
def test_counts_are_one_or_more(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is 0\. Expected 1 or more"):
        RunArguments(data="d", **{name: 0})
    assert getattr(RunArguments(data="d", **{name: 1}), name) == 1
