"""Opening an engine: which one, in which precision, and what is not there."""

import pytest

from emor3_trl.engines.opening import compute_dtype, resolve_engine


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_engine("vlm"), "Unknown engine 'vlm'. Expected one of auto, vllm, transformers"),
        (lambda: compute_dtype("fp8"), "Unknown dtype 'fp8'"),
    ],
)
def test_a_users_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_vllm_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_engine("auto") == "transformers"
    with pytest.raises(ModuleNotFoundError, match="--engine transformers"):
        resolve_engine("vllm")
