"""What a launch is: its processes, its devices, and what each process loads."""

import pytest

from emor3_trl import launch


@pytest.mark.parametrize(
    ("beta", "lora", "loading", "refused"),
    [
        (0.01, False, "true", True),
        (0.01, False, "false", False),
        (0.0, False, "true", False),
        (0.01, True, "true", False),
    ],
    ids=["empty reference", "loaded everywhere", "no reference", "adapter switched off"],
)
def test_a_reference_model_that_one_process_loads_is_refused(
    monkeypatch: pytest.MonkeyPatch, beta: float, lora: bool, loading: str, refused: bool
) -> None:
    variables = {"WORLD_SIZE": "8", "ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": loading}
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    if refused:
        with pytest.raises(ValueError, match=r"fsdp_cpu_ram_efficient_loading is true.*fsdp2\.yaml"):
            launch.check_reference(beta, lora)
    else:
        launch.check_reference(beta, lora)
