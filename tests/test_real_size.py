"""The benchmark of real size, at a tiny one: its parts add up, and its bytes are those of --plan."""

import json
import resource
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "recipes" / "configs" / "qwen2_5_vl_3b"
TINY = ["--hidden", "64", "--layers", "2", "--vocabulary", "2000", "--pixels", "12544", "--max_completion_length", "16"]
TINY += ["--steps", "2", "--groups", "1", "--vllm_max_model_length", "512", "--vllm_gpu_memory_utilization", "0.1"]


def run_real_size(config: str, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    """Run the benchmark in this process, and return what it wrote."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_size

    argv = ["real_size.py", "--config", str(CONFIGS / f"{config}.yaml"), "--out", str(out), *options]
    monkeypatch.setattr("sys.argv", argv)
    real_size.main()
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param("emoset_emo_r3_lora_24gb", ["--dtype", "float32"], id="lora, vllm"),
        pytest.param("emoset_emo_r3_lora_80gb", ["--engine", "transformers"], id="lora, transformers"),
        pytest.param(
            "emoset_emo_r3", ["--engine", "transformers", "--ref_model_dtype", "bfloat16"], id="full, transformers"
        ),
    ],
)
def test_a_run_is_measured_part_by_part(
    config: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    record = run_real_size(config, tmp_path / "figures.json", monkeypatch, *TINY, *options, "--peak_tflops", "1")
    seconds = record["seconds"]
    assert sum(seconds.values()) == pytest.approx(record["step_seconds"], rel=0.05)
    needed = ["rollout", "reflection", "images", "reference", "policy", "optimizer", "rest"]
    needed += ["weight sync"] if record["engine"] == "vllm" else []
    assert all(seconds[part] > 0 for part in needed)
    assert record["reflection_requests"] == 16  # both questions about each completion of the group
    assert record["completion_tokens"] == 16
    assert 16 < record["prompt_tokens"] < 496
    assert record["shares_prefix"]
    if record["engine"] == "vllm":
        assert record["parity"] < 1e-4
    held, planned = record["held_gib"], record["planned_gib"]
    assert held["weights"] == pytest.approx(planned["weights"])
    assert held["gradients"] == pytest.approx(planned["gradients"])
    assert held["optimizer"] == pytest.approx(planned["optimizer (AdamW)"], rel=0.01)
    assert held["reference model"] == pytest.approx(planned["reference model (beta > 0)"])
    assert record["mfu"] * sum(seconds.get(part, 0) for part in ("old", "reference", "policy")) == pytest.approx(
        record["teraflop_of_training"]
    )
    row, header = capfd.readouterr().out.splitlines()[-1], record["machine"]["card"]
    assert row.startswith(f"| {header} | {config} |")
    assert row.count("|") == 19


@pytest.mark.slow
def test_a_run_that_does_not_fit_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    out = tmp_path / "figures.json"
    sizes = ["--hidden", "4096", "--layers", "2", "--pixels", "12544", "--engine", "transformers"]
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_size  # noqa: F401 - before memory is short

    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, limits[1]))
    try:
        with pytest.raises(SystemExit) as exit_info:
            run_real_size("emoset_emo_r3", out, monkeypatch, *sizes)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert exit_info.value.code == 1
    record = json.loads(out.read_text())
    assert record["does_not_fit"] == "random weights"
    planned = record["planned_gib"]["peak while training"]
    assert f"does not fit: random weights; needs {planned:.1f} GiB" in capfd.readouterr().out
