"""No file of a checkpoint runs code when a run goes on from it: it is refused in one line, before a model loads."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Payload, write_pickle
from recipe_commands import RecipeRunner, command
from torch.distributed import checkpoint as sharded
from training import SAVING, tiny_trainer

from emor3_trl.upkeep import resuming
from emor3_trl.upkeep.torch_files import UntrustedFileError, check_no_code, find_code, only_tensors

# What Trainer, this package, Accelerate under FSDP, and DeepSpeed read, by who reads it
READ_HERE = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "run_state_0.pt"]
READ_SHARDED = [
    "pytorch_model_fsdp.bin", "optimizer.bin", "scaler.pt", "global_step1/mp_rank_00_model_states.pt",
    "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has saved its first step."""
    folder = tmp_path_factory.mktemp("run")
    tiny_trainer(tiny_model_dir, folder, use_vllm=False, max_steps=1, **SAVING).train()
    return folder


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoint, without the checksums, which who puts code into it would write anew."""
    copied = Path(shutil.copytree(run / "checkpoint-1", tmp_path / "checkpoint-1"))
    (copied / "checksums.json").unlink()
    return copied


def go_on(model: Path, checkpoint: Path) -> None:
    trainer = tiny_trainer(model, checkpoint.parent, use_vllm=False, max_steps=2, **SAVING)
    trainer.train(resume_from_checkpoint=str(checkpoint))


def test_what_a_run_saves_names_no_code(checkpoint: Path) -> None:
    check_no_code(checkpoint)
    assert sorted(path.name for path in checkpoint.rglob("*.p*t*")) == sorted(READ_HERE)  # and they were looked at


@pytest.mark.parametrize("name", [*READ_HERE, *READ_SHARDED])
def test_a_file_with_code_is_found(tmp_path: Path, name: str) -> None:
    write_pickle(tmp_path / name, tmp_path / "it_ran")
    with pytest.raises(UntrustedFileError, match=rf"{name}' would run \w+.mkdir when it is read"):
        check_no_code(tmp_path)
    assert not (tmp_path / "it_ran").exists()


def test_a_checkpoint_with_code_is_refused_before_anything_is_read(tiny_model_dir: Path, checkpoint: Path) -> None:
    write_pickle(checkpoint / "scheduler.pt", checkpoint.parent / "it_ran")
    with pytest.raises(UntrustedFileError, match=r"scheduler.pt' would run \w+.mkdir when it is read"):
        go_on(tiny_model_dir, checkpoint)
    assert not (checkpoint.parent / "it_ran").exists()


@pytest.mark.parametrize("name", READ_HERE)
def test_torch_refuses_a_file_with_code_too(
    tiny_model_dir: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody puts the file there after it was looked at, and has told torch to read pickles."""
    mark = checkpoint.parent / "it_ran"
    write_pickle(checkpoint / name, mark)
    monkeypatch.setattr(resuming, "check_no_code", lambda _: None)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises((UntrustedFileError, pickle.UnpicklingError)):
        go_on(tiny_model_dir, checkpoint)
    assert not mark.exists()


def test_nothing_reads_the_arguments_that_trainer_saves(tiny_model_dir: Path, checkpoint: Path) -> None:
    mark = checkpoint.parent / "it_ran"
    write_pickle(checkpoint / "training_args.bin", mark)
    go_on(tiny_model_dir, checkpoint)
    assert (checkpoint.parent / "checkpoint-2").is_dir()
    assert not mark.exists()


def test_the_payload_runs_where_a_file_is_trusted(tmp_path: Path) -> None:
    """Otherwise the tests here would prove nothing."""
    write_pickle(tmp_path / "optimizer.pt", tmp_path / "it_ran")
    torch.load(tmp_path / "optimizer.pt", weights_only=False)
    assert (tmp_path / "it_ran").exists()


@pytest.mark.slow
def test_the_recipe_says_it_in_one_line(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = command(tmp_path, "grpo", tiny_model_dir, "out")[2:]
    arguments += ["--use_vllm", "false", "--save_steps", "1", "--max_steps", "1"]
    run = RecipeRunner("grpo", monkeypatch, capsys)
    assert run(tmp_path, *arguments).returncode == 0
    (tmp_path / "out" / "metrics.json").unlink()  # as if it had been stopped
    (tmp_path / "out" / "checkpoint-1" / "checksums.json").unlink()
    write_pickle(tmp_path / "out" / "checkpoint-1" / "optimizer.pt", tmp_path / "it_ran")
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "optimizer.pt' would run posix.mkdir when it is read" in refused.stderr
    assert not (tmp_path / "it_ran").exists()


def test_a_file_that_torch_cannot_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(pickle.dumps(Payload(tmp_path / "it_ran")))  # as torch wrote before 1.6
    with pytest.raises(UntrustedFileError, match="cannot be listed"):
        check_no_code(tmp_path)
    assert not (tmp_path / "it_ran").exists()


class TestShardedCheckpoints:
    """PyTorch's own format for FSDP, whose table of contents is a pickle that PyTorch reads without a look."""

    @pytest.fixture
    def state(self) -> dict[str, Any]:
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "note": {"step": 3}}

    def test_a_good_one_is_read(self, state: dict[str, Any], tmp_path: Path) -> None:
        sharded.save(state, checkpoint_id=tmp_path / "optimizer_0")
        check_no_code(tmp_path)
        saved = state["model"]["weight"].clone()
        state["model"]["weight"].data.zero_()
        state["note"]["step"] = 0
        with only_tensors():
            sharded.load(state, checkpoint_id=tmp_path / "optimizer_0")
        assert torch.equal(state["model"]["weight"], saved)
        assert state["note"] == {"step": 3}

    def test_code_in_its_table_of_contents_is_refused(self, state: dict[str, Any], tmp_path: Path) -> None:
        sharded.save(state, checkpoint_id=tmp_path / "optimizer_0")
        table = tmp_path / "optimizer_0" / ".metadata"
        mark = tmp_path / "it_ran"
        table.write_bytes(pickle.dumps([pickle.loads(table.read_bytes()), Payload(mark)]))
        assert find_code(table) == "posix.mkdir"
        assert not mark.exists()
        with pytest.raises(sharded.CheckpointException):  # what PyTorch does without the look
            sharded.load(state, checkpoint_id=tmp_path / "optimizer_0")
        assert mark.exists()

    @pytest.mark.parametrize("name", ["optimizer_0", "optimizer_0/.metadata"], ids=["folder", "file"])
    def test_a_link_is_refused(self, state: dict[str, Any], tmp_path: Path, name: str) -> None:
        sharded.save(state, checkpoint_id=tmp_path / "elsewhere" / "optimizer_0")
        checkpoint = tmp_path / "checkpoint-1"
        (checkpoint / name).parent.mkdir(parents=True)
        (checkpoint / name).symlink_to(tmp_path / "elsewhere" / name)
        with pytest.raises(UntrustedFileError, match=rf"checkpoint-1/{name}' is a link"):
            check_no_code(checkpoint)

    def test_code_in_its_values_is_refused(self, state: dict[str, Any], tmp_path: Path) -> None:
        mark = tmp_path / "it_ran"
        sharded.save({**state, "note": Payload(mark)}, checkpoint_id=tmp_path / "optimizer_0")
        mark.rmdir() if mark.exists() else None
        with pytest.raises((UntrustedFileError, sharded.CheckpointException)), only_tensors():
            sharded.load(state, checkpoint_id=tmp_path / "optimizer_0")
        assert not mark.exists()


class TestDeepSpeed:
    """Its engine reads a checkpoint with `weights_only=False`."""

    @pytest.fixture
    def read(self) -> Any:
        module = pytest.importorskip("deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine")
        return module.TorchCheckpointEngine(None).load

    def test_what_it_saves_is_read(self, read: Any, tmp_path: Path) -> None:
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        state = {"stage": ZeroStageEnum(2), "place": fragment_address(3, 5), "scaler": LossScaler(2.0)}
        torch.save({**state, "moments": torch.ones(2)}, tmp_path / "optim_states.pt")
        check_no_code(tmp_path)
        with only_tensors():
            loaded = read(str(tmp_path / "optim_states.pt"))
        assert (loaded["stage"], loaded["place"]) == (ZeroStageEnum(2), fragment_address(3, 5))
        assert loaded["scaler"].loss_scale == 2.0

    def test_code_is_refused(self, read: Any, tmp_path: Path) -> None:
        write_pickle(tmp_path / "optim_states.pt", tmp_path / "it_ran")
        with pytest.raises(UntrustedFileError, match="more than tensors"), only_tensors():
            read(str(tmp_path / "optim_states.pt"))
        assert not (tmp_path / "it_ran").exists()
