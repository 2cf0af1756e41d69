"""A checkpoint that was cut short is seen before a model loads, whichever of its files it is."""

import shutil

import pytest
from training import SAVING, cold_start_trainer, tiny_trainer

from emor3_trl.damage import check_launch, find_damage
from emor3_trl.run.folder import find_last_checkpoint


@pytest.fixture(scope="module")
def runs(tiny_model_dir, tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("grpo", "lora", "cold-start")}
    grpo = {"use_vllm": False, "max_steps": 2, **SAVING}
    tiny_trainer(tiny_model_dir, folders["grpo"], **grpo).train()
    tiny_trainer(tiny_model_dir, folders["lora"], lora=True, **grpo).train()
    cold_start_trainer(tiny_model_dir, folders["cold-start"], max_steps=2, **SAVING).train()
    return folders


FILES = {
    "grpo": ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state_0.pt", "config.json"],
    "lora": ["adapter_model.safetensors", "adapter_config.json", "optimizer.pt"],
    "cold-start": ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state_0.pt"],
}


HARMS = [
    (run, file, harm)
    for run, files in FILES.items()
    for file in files
    for harm in ("cut short", "emptied", "removed")
    if not (harm == "removed" and file.endswith(".json"))
]


@pytest.mark.parametrize(("run", "file", "harm"), HARMS)
def test_a_damaged_checkpoint_is_skipped_for_an_older_whole_one(runs, tmp_path, capsys, run, file, harm):
    shutil.copytree(runs[run], tmp_path / "run")
    last = tmp_path / "run" / "checkpoint-2"
    assert find_last_checkpoint(tmp_path / "run") == str(last)
    content = (last / file).read_bytes()
    if harm == "removed":
        (last / file).unlink()
    else:
        (last / file).write_bytes(content[: len(content) // 2 if harm == "cut short" else 0])
    capsys.readouterr()
    assert find_last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-1")
    said = capsys.readouterr().out
    assert said.startswith(f"{last}: ")
    assert said.endswith(", skipped\n")
    assert said.count("\n") == 1
    assert file in said or harm == "removed"


def test_a_shard_that_is_not_there_is_missed(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    assert "model-00001.safetensors" in find_damage(tmp_path)


def test_another_number_of_processes_is_refused(tmp_path):
    for process in range(2):
        (tmp_path / f"run_state_{process}.pt").touch()
    check_launch(tmp_path, 2)
    with pytest.raises(ValueError, match=r"saved by 2 process\(es\), and this launch has 1"):
        check_launch(tmp_path, 1)
