"""What a launch is: its processes, its devices, and what each process loads."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emor3_trl import launch
from emor3_trl.engines import opening
from emor3_trl.run import checks, folder

GPU_SETTINGS = {"bf16": True, "vllm_enable_sleep_mode": True, "optim": "paged_adamw_8bit"}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let torch see two accelerators of one kind, or none."""

    def see(kind: str) -> None:
        for name in ("cuda", "xpu"):
            accelerator = getattr(torch, name)
            monkeypatch.setattr(accelerator, "is_available", lambda name=name: name == kind)
            monkeypatch.setattr(accelerator, "device_count", lambda name=name: 2 if name == kind else 0)
            monkeypatch.setattr(accelerator, "get_device_name", lambda index, name=name: f"{name} {index}")
            monkeypatch.setattr(accelerator, "is_bf16_supported", lambda: True)

    return see


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_configuration_and_engine_agree_on_an_accelerator_of_any_kind(
    pretend: Callable[[str], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(kind)
    assert launch.device_type() == kind
    checks.check_gpu(GPU_SETTINGS, None)  # the configuration may ask for what a GPU has
    assert opening.compute_dtype("auto") is torch.bfloat16
    assert not {"block_size", "enforce_eager"} & set(opening.engine_options("bfloat16"))  # those of a CPU
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    opening.prepare_cpu_engine()
    assert "VLLM_CPU_KVCACHE_SPACE" not in opening.os.environ
    assert folder.describe_environment()["devices"] == [f"{kind} 0", f"{kind} 1"]
    assert launch.count_devices() == 2


def test_configuration_and_engine_agree_on_a_cpu(pretend: Callable[[str], None]) -> None:
    pretend("cpu")
    assert launch.device_type() == "cpu"
    with pytest.raises(ValueError, match="bf16, vllm_enable_sleep_mode, optim need a GPU"):
        checks.check_gpu(GPU_SETTINGS, None)
    assert opening.compute_dtype("auto") is torch.float32
    assert opening.engine_options("float32")["enforce_eager"]
    assert folder.describe_environment()["devices"] == ["cpu"]
    assert launch.count_devices() == 0


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


FAULTS = """
import resource
import torch
from emor3_trl.launch import keep_freed_memory
keep_freed_memory()
for _ in range(30):  # until the blocks have found their places
    torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALL_HUGE = HUGE_PAGES.is_file() and "[always]" in HUGE_PAGES.read_text()


@pytest.mark.skipif(sys.platform != "linux" or ALL_HUGE, reason="glibc and small pages")
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a CPU alone")
@pytest.mark.parametrize("setting", [None, "1000000"], ids=["kept", "users-own-setting"])
def test_freed_memory_is_kept_for_the_next_tensor_on_a_cpu(setting: str | None) -> None:
    """A page that is mapped anew costs a fault: 16,384 of them for 64 MB."""
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": setting} if setting else {})}
    faults = int(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True))
    assert faults > 10_000 if setting else faults < 1_000


RANK = """
import time
from emor3_trl.launch import end_with_launcher
print("imported", flush=True)
time.sleep(WAIT)
end_with_launcher()
print("begun", flush=True)
time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
@pytest.mark.parametrize(("wait", "said"), [(0, ["imported", "begun"]), (2, ["imported"])], ids=["later", "early"])
def test_a_rank_ends_when_its_launcher_is_killed(wait: int, said: list[str]) -> None:
    """A launcher starts its ranks in sessions of their own, so that what kills its group does not reach them."""
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK.replace("WAIT", str(wait))], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True,
    ) as launcher:  # fmt: skip
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline().strip()]
        while lines[-1] != said[-1]:
            lines.append(launcher.stdout.readline().strip())
        time.sleep(0.2)
        os.killpg(launcher.pid, signal.SIGKILL)
        began = time.monotonic()
        lines += launcher.stdout.read().split()  # ends when the rank, which holds it open, has ended
        assert time.monotonic() - began < 30
    assert lines == said


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        pytest.param(["runs/a/checkpoint-4"] * 2, "", id="both-go-on"),
        pytest.param([None, None], "", id="both-start"),
        pytest.param(
            ["runs/a/checkpoint-4", None],
            "goes on from runs/a/checkpoint-4, process 1 from the start",
            id="one-has-none",
        ),
    ],
)
def test_nodes_that_do_not_share_the_run_s_folder_are_told_so(
    monkeypatch: pytest.MonkeyPatch, seen: list[str | None], told: str
) -> None:
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: seen)
    if told:
        with pytest.raises(ValueError, match=told):
            launch.check_shared_folder("runs/a", seen[0])
    else:
        launch.check_shared_folder("runs/a", seen[0])


def test_deepspeed_is_told_of_a_machine_without_a_gpu_alone(
    pretend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR")
    pretend("cuda")
    launch.quiet_deepspeed()
    assert "DS_ACCELERATOR" not in launch.os.environ
    pretend("cpu")
    launch.quiet_deepspeed()
    assert launch.os.environ["DS_ACCELERATOR"] == "cpu"


@pytest.mark.parametrize(
    ("launched", "bf16", "refused"),
    [("bf16", False, True), ("bf16", True, False), ("no", False, False), (None, True, False)],
    ids=["launch-alone", "both", "neither", "no-accelerate"],
)
def test_a_precision_that_the_launch_alone_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, launched: str | None, bf16: bool, refused: bool
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    if refused:
        with pytest.raises(ValueError, match=r"bf16 is false, but Accelerate's file says.*Add --mixed_precision no"):
            launch.check_precision(bf16, False)
    else:
        launch.check_precision(bf16, False)
