"""A checkpoint that was cut short is seen before a model loads, whichever of its files it is."""

import random
import shutil
from pathlib import Path

import pytest
from training import SAVING, cold_start_trainer, tiny_trainer

from emor3_trl.checksums import CHECKSUMS
from emor3_trl.damage import check_launch, find_damage
from emor3_trl.run.folder import find_last_checkpoint, remove_remains


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


@pytest.mark.parametrize("run", FILES)
def test_one_changed_bit_in_any_file_of_a_checkpoint_is_seen(runs, tmp_path, run):
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(runs[run] / "checkpoint-2", checkpoint)
    draw, names = random.Random(run), {path.name for path in checkpoint.iterdir()} - {"README.md", CHECKSUMS}
    assert {*FILES[run], "tokenizer.json", "trainer_state.json", "training_args.bin"} <= names
    for name in sorted(names):
        content = bytearray((checkpoint / name).read_bytes())
        for place in (0, draw.randrange(len(content)), len(content) - 1):
            content[place] ^= 1 << draw.randrange(8)
            (checkpoint / name).write_bytes(content)
            damage = find_damage(checkpoint)
            assert damage is not None
            assert name in damage
            (checkpoint / name).write_bytes((runs[run] / "checkpoint-2" / name).read_bytes())
            content = bytearray((checkpoint / name).read_bytes())
    assert find_damage(checkpoint) is None


def test_what_a_killed_run_was_saving_or_deleting_is_removed_and_what_is_whole_is_kept(runs, tmp_path):
    shutil.copytree(runs["grpo"], tmp_path / "run")
    for number, left in ((3, ["config.json", "model.safetensors"]), (4, ["optimizer.pt"])):
        (tmp_path / "run" / f"checkpoint-{number}").mkdir()
        for name in left:
            shutil.copy(tmp_path / "run" / "checkpoint-2" / name, tmp_path / "run" / f"checkpoint-{number}")
    (tmp_path / "run" / "checkpoint-best").mkdir()  # somebody's own
    (tmp_path / "run" / "checkpoint-1" / "tokenizer.json").unlink()
    remove_remains(tmp_path / "run", tmp_path / "run" / "checkpoint-2")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-best"}


def test_a_checkpoint_in_which_somebody_edited_a_file_is_skipped_and_never_deleted(runs, tmp_path):
    shutil.copytree(runs["grpo"], tmp_path / "run")
    last = tmp_path / "run" / "checkpoint-2"
    with (last / "generation_config.json").open("a") as file:
        file.write("\n")
    whole = find_last_checkpoint(tmp_path / "run")
    assert whole == str(tmp_path / "run" / "checkpoint-1")
    remove_remains(tmp_path / "run", Path(whole))
    assert (last / "model.safetensors").is_file()


def test_a_checkpoint_that_is_saved_again_holds_nothing_of_what_a_killed_run_left(tiny_model_dir, tmp_path):
    old = tmp_path / "checkpoint-1"
    old.mkdir()
    for name in ("trainer_state.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"):
        (old / name).write_text("{}")
    trainer = cold_start_trainer(tiny_model_dir, tmp_path, max_steps=1, **SAVING)
    trainer.train()
    assert find_damage(old) is None
    assert not (old / "pytorch_model.bin").exists()


def test_a_changed_checkpoint_is_not_resumed_in_python_either(runs, tiny_model_dir, tmp_path):
    shutil.copytree(runs["cold-start"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoint-1" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    trainer = cold_start_trainer(tiny_model_dir, tmp_path, max_steps=2, **SAVING)
    with pytest.raises(ValueError, match=r"checkpoint-1' is damaged: optimizer\.pt is not as it was saved"):
        trainer.train(resume_from_checkpoint=str(file.parent))


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
