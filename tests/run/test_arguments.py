"""What a training recipe can be told, and what it refuses by itself."""

import pytest

from emor3_trl.run.arguments import GRPOArguments, RunArguments


@pytest.mark.parametrize("name", ["max_samples", "processes"])
def test_counts_are_one_or_more(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is 0\. Expected 1 or more"):
        RunArguments(data="d", **{name: 0})
    assert getattr(RunArguments(data="d", **{name: 1}), name) == 1


@pytest.mark.parametrize("name", ["validation_samples", "validation_patience"])
def test_an_option_of_a_validation_that_never_comes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 3, but nothing is validated. Set validation_splits"):
        GRPOArguments(data="d", **{name: 3})
    assert getattr(GRPOArguments(data="d", validation_splits=["test"], **{name: 3}), name) == 3
