"""docs/SCALE.md says what --plan says, and names what is there."""

import os
import re
import subprocess

import pytest
from recipe_commands import ROOT, RecipeRunner

PAGE = (ROOT / "docs" / "SCALE.md").read_text()
ROW = re.compile(r"\| (Qwen2\.5-VL-\dB) \| (\w+) \| (\S+) \| `(\w+)` \| `([^`]+)` \| (\d+) \| (\d+) \+ (\d+) \|")
ROWS = [match.groups() for match in ROW.finditer(PAGE)]
COLUMNS = {"single_gpu": 0, "ddp": 0, "zero2": 1, "zero3": 2, "fsdp2": 2}  # of --plan


def test_the_table_has_both_models_both_methods_and_one_to_64_gpus() -> None:
    assert {(row[0][-2:], row[1]) for row in ROWS} == {(size, way) for size in ("3B", "7B") for way in ("LoRA", "full")}
    assert {row[2].split("x")[0] for row in ROWS} >= {"1", "8", "16", "64"}
    assert len(ROWS) == sum(line.startswith("| Qwen") for line in PAGE.splitlines())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_a_row_of_the_table_is_what_plan_prints(
    row: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model, method, gpus, launcher, change, training, generating, cache = row
    config, *flags = change.split()
    config = str(ROOT / "recipes" / "configs" / "qwen2_5_vl_3b" / config)
    printed = RecipeRunner("grpo", monkeypatch, capsys)(ROOT, "--config", config, "--plan", *flags).stdout
    assert re.search(r"^model +\S+/(\S+)-Instruct", printed, re.MULTILINE).group(1) == model
    assert re.search(r"^processes +(\d+)", printed, re.MULTILINE).group(1) == gpus.split("x")[0]
    assert ("adapter_model" in printed) is (method == "LoRA")
    assert (ROOT / "recipes" / "accelerate" / f"{launcher}.yaml").is_file()

    def read(part: str) -> float:
        numbers = re.search(rf"^ +{part} +([\d. ]+)$", printed, re.MULTILINE).group(1).split()
        return float(numbers[COLUMNS[launcher]])

    kept = read("vLLM KV of one rollout")
    found = (f"{read('peak while training'):.0f}", f"{read('peak while generating') - kept:.0f}", f"{kept:.0f}")
    assert found == (training, generating, cache), f"docs/SCALE.md: write | {found[0]} | {found[1]} + {found[2]} |"


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"(?:recipes|containers|requirements|tests)/[\w./]+\w", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_stages_that_the_launch_would_refuse_are_not_submitted() -> None:
    submit = ROOT / "recipes" / "slurm" / "submit.sh"
    environment = {"PATH": os.environ["PATH"], "NODES": "2", "GRPO": "recipes/grpo.py --processes 16"}  # no cold start
    done = subprocess.run(["bash", str(submit)], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NODES 2 x GPUS_PER_NODE 8 is not 8" in done.stderr
    assert "--processes 16" in done.stderr
