"""The command line: what a recipe refuses before it loads anything, and how it says so."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from transformers import SchedulerType
from trl import ModelConfig

from emor3_trl import checkpoints, launch
from emor3_trl.config import EmoR3Config
from emor3_trl.groups import batching
from emor3_trl.run import checks, wandb
from emor3_trl.run.arguments import RunArguments
from emor3_trl.run.command_line import UserError, cli, parse, user_errors
from emor3_trl.run.folder import RunFolder, last_checkpoint

CLASSES = (RunArguments, ModelConfig, EmoR3Config)
CPU = {"data": "d", "output_dir": "o", "bf16": False, "use_cpu": True, "use_vllm": False}


def write(folder: Path, **changes: object) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CPU, **changes}))
    return str(path)


def test_yaml_is_a_run_and_flags_override_it(tmp_path: Path) -> None:
    config = write(tmp_path, learning_rate="3e-5", num_generations=4, vllm_engine_options={"block_size": 32})
    parsed = parse(CLASSES, argv=["--config", config, "--num_generations", "2"])
    run, _, args = parsed.arguments
    assert (run.data, args.learning_rate, args.num_generations) == ("d", 3e-5, 2)
    assert args.lr_scheduler_type == SchedulerType.CONSTANT
    assert parsed.values["num_generations"] == 2
    assert parsed.source == Path(config)


def test_resolved_values_are_a_config_again(tmp_path: Path) -> None:
    first = parse(CLASSES, argv=["--config", write(tmp_path, beta=0.02)])
    RunFolder(tmp_path / "run", first.values).begin()
    again = parse(CLASSES, argv=["--config", str(tmp_path / "run" / "config.yaml")])
    assert not RunFolder(tmp_path / "run", again.values).finished  # no "holds another run"
    assert again.arguments[2].beta == 0.02


@pytest.mark.parametrize(
    ("changes", "flags", "expected"),
    [
        pytest.param({"lerning_rate": 1}, [], ["'lerning_rate'", "config.yaml", "learning_rate"], id="unknown key"),
        pytest.param({"zzz": 1}, [], ["Unknown key 'zzz'"], id="unknown key with nothing near"),
        pytest.param({}, ["--num-generation", "4"], ["--num-generation", "--num_generations"], id="unknown flag"),
        pytest.param({}, ["other.yaml"], ["--config other.yaml"], id="yaml without --config"),
        pytest.param({"num_generations": 2.5}, [], ["2.5", "whole number"], id="float for int"),
        pytest.param({"num_generations": "many"}, [], ["'many'", "whole number"], id="text for int"),
        pytest.param({"max_steps": True}, [], ["True", "whole number"], id="truth value for int"),
        pytest.param({"learning_rate": [1]}, [], ["learning_rate", "a number"], id="list for float"),
        pytest.param({"use_vllm": "maybe"}, [], ["use_vllm"], id="text for truth value"),
        pytest.param({"save_strategy": False}, [], ["save_strategy", "quote"], id="bare no"),
        pytest.param({"prompt_style": "sett"}, [], ["'sett'", "'set'"], id="unknown choice"),
        pytest.param({}, ["--beta", "small"], ["beta", "small", "a number"], id="text for a number as a flag"),
        pytest.param({"num_generations": 7}, [], ["7", "batch_size 7", "num_generations 4 or 8"], id="no whole groups"),
        pytest.param({"num_generations": 1}, [], ["2 or more"], id="G of 1"),
        pytest.param({"processes": 8}, [], ["8 process", "has 1", "accelerate launch"], id="other world size"),
        pytest.param({"bf16": True}, [], ["bf16", "GPU", "recipes/configs/demo"], id="bf16 without a GPU"),
        pytest.param({"vllm_enable_sleep_mode": True}, [], ["vllm_enable_sleep_mode"], id="sleep without a GPU"),
        pytest.param({"attn_implementation": "flash_attention_2"}, [], ["attn_implementation"], id="flash attention"),
        pytest.param({"reward_variant": "papr"}, [], ["papr", "reference"], id="unknown reward variant"),
        pytest.param({"lambda1": 0.9, "lambda2": 0.2}, [], ["lambda"], id="weights above 1"),
        pytest.param({"use_vllm": True, "vllm_mode": "server"}, [], ["colocate"], id="server mode"),
        pytest.param({"top_p": 0.9}, [], ["top_p"], id="truncated sampling"),
        pytest.param({"repetition_penalty": 1.05}, [], ["repetition_penalty 1.05"], id="repetition penalty"),
        pytest.param({"generation_kwargs": {"top_k": 50}}, [], ["top_k 50"], id="restriction among further options"),
        pytest.param({"generation_kwargs": {"temperature": 2}}, [], ["temperature 2"], id="vLLM's own temperature"),
        pytest.param({}, ["--generation_kwargs", "[1]"], ["generation_kwargs", "mapping"], id="list for a mapping"),
        pytest.param({}, ["--generation_kwargs", "{x"], ["generation_kwargs", "expected JSON"], id="broken JSON"),
        pytest.param({"loss_type": "gppo"}, [], ["'gppo'", "dr_grpo"], id="unknown loss"),
        pytest.param({"scale_rewards": "std"}, [], ["'std'", "group"], id="unknown scaling of rewards"),
        pytest.param({"temperature": 0.0}, [], ["temperature is 0.0"], id="temperature of 0"),
        pytest.param({"max_completion_length": 0}, [], ["max_completion_length is 0"], id="completions of no token"),
        pytest.param({"learning_rate": -1.0}, [], ["learning_rate is -1.0"], id="negative rate"),
        pytest.param({"num_train_epochs": 0}, [], ["num_train_epochs is 0"], id="no epoch"),
        pytest.param({"reward_weights": [1.0, 2.0]}, [], ["reward_weights", "lambda1"], id="weights by hand"),
        pytest.param({"report_to": "wandd"}, [], ["wandd", "wandb"], id="unknown integration"),
        pytest.param({"use_peft": True}, [], ["--lora_target_modules all-linear"], id="LoRA of nothing"),
        pytest.param({"generation_batch_size": 6}, [], ["generation_batch_size = 6"], id="whole groups by hand"),
        pytest.param(
            {"use_peft": True, "lora_target_modules": ["x"]},
            [],
            ["lora_dropout is 0.05", "--lora_dropout 0"],
            id="dropout in training",
        ),
        pytest.param({"prompt_style": "think"}, [], ["'think'", "--prompt_style set"], id="prompt of another reward"),
        pytest.param({"reward_variant": "plain"}, [], ["'set'", "--prompt_style think"], id="reward of another prompt"),
        pytest.param({"eval_split": "validation"}, [], ["--eval_strategy steps"], id="split that nothing evaluates"),
        pytest.param({"eval_strategy": "steps"}, [], ["eval_split is None"], id="evaluation without a split"),
        pytest.param({"resume_from_checkpoint": "c"}, [], ["output_dir"], id="resuming by hand"),
    ],
)
def test_mistakes_are_named_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, flags: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(checks, "gpu_available", lambda: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError) as error:
        parse(CLASSES, argv=["--config", write(tmp_path, **changes), *flags])
    for part in expected:
        assert part in str(error.value)


def test_missing_config_lists_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"nope\.yaml' does not exist.*config\.yaml"):
        parse(CLASSES, argv=["--config", str(tmp_path / "nope.yaml")])


def test_config_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"model\.yaml' is not valid YAML"):
        parse(CLASSES, argv=["--config", str(tmp_path / "model.yaml")])


def test_missing_required_argument_is_named() -> None:
    with pytest.raises(UserError, match="--data must be set"):
        parse(CLASSES, argv=["--bf16", "false"])


@pytest.mark.parametrize(
    ("processes", "per_device", "accumulation", "group"),
    [(p, b, a, g) for p in (1, 2, 3) for b in (1, 3, 4) for a in (1, 2) for g in (2, 6, 8)],
)
def test_suggested_batch_sizes_divide(processes: int, per_device: int, accumulation: int, group: int) -> None:
    values = {
        "num_generations": group,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
    }
    if processes * per_device * accumulation % group == 0:
        batching.check_batch(values, processes)
        return
    with pytest.raises(ValueError, match="do not divide") as error:
        batching.check_batch(values, processes)
    sizes = str(error.value).split("--per_device_train_batch_size ")[1].split(",")[0].rstrip(".").split(" or ")
    for size in sizes:
        batching.check_batch({**values, "per_device_train_batch_size": int(size)}, processes)


def test_missing_vllm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\.\[vllm\].*\.\[cpu\].*--use_vllm false"):
        checks.check_vllm({"use_vllm": True})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"prompt_style": "think", "reward_variant": "plain"}, id="plain GRPO"),
        pytest.param({"prompt_style": "direct", "lambda1": 0.0, "lambda2": 0.0}, id="accuracy alone"),
        pytest.param(
            {"use_peft": True, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"]}, id="LoRA without dropout"
        ),
        pytest.param({"eval_split": "validation", "eval_strategy": "steps"}, id="evaluation while training"),
        pytest.param({"generation_kwargs": {"stop": ["x"], "top_p": 1.0}}, id="options that restrict nothing"),
    ],
)
def test_settings_that_agree_are_taken(tmp_path: Path, changes: dict) -> None:
    parse(CLASSES, argv=["--config", write(tmp_path, **changes)])


@pytest.mark.parametrize(
    ("gpus", "environment", "refused"),
    [(1, {}, False), (2, {}, True), (2, {"WORLD_SIZE": "2"}, False)],
    ids=["one GPU", "two for one process", "one for each process"],
)
def test_one_process_uses_one_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int, environment: dict, refused: bool) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(checks.torch.cuda, "device_count", lambda: gpus)
    training = {"per_device_train_batch_size": 8}
    if refused:
        with pytest.raises(ValueError, match=r"2 GPUs.*CUDA_VISIBLE_DEVICES=0"):
            checks.check_processes(training, None)
    else:
        checks.check_processes(training, None)
    checks.check_processes({**training, "use_cpu": True}, None)
    checks.check_processes({}, None)  # an evaluation takes the first


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


@pytest.mark.parametrize("path", ["runs/nope", "./nope", "/nope/model", "nope"])
def test_missing_model_folder(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="--model_name_or_path"):
        checkpoints.check_model_path(path)


def test_model_folder_without_safe_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        checkpoints.check_model_path(str(tmp_path))


def test_name_on_the_hub_is_no_folder() -> None:
    checkpoints.check_model_path("Qwen/Qwen2.5-VL-3B-Instruct")


@pytest.mark.parametrize("report_to", [["wandb"], "all"])
def test_wandb_is_offline_without_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report_to: str | list[str]
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(wandb, "_wandb_login", lambda: False)
    wandb.prepare_reporting({"report_to": report_to, "output_dir": str(tmp_path)})
    assert wandb.os.environ["WANDB_MODE"] == "offline"
    assert wandb.os.environ["WANDB_DIR"] == str(tmp_path)


def test_wandb_with_a_key_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    wandb.prepare_reporting({"report_to": "wandb"})
    assert "WANDB_MODE" not in wandb.os.environ


def test_cli_prints_one_line_and_exits_with_2(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOR3_DEBUG", raising=False)

    def main() -> None:
        with user_errors():
            raise ValueError("first\n  second")

    with pytest.raises(SystemExit) as exit_info:
        cli(main)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cli_keeps_the_traceback_of_a_defect() -> None:
    def main() -> None:
        raise ValueError("raised outside the checking phase")

    with pytest.raises(ValueError, match="outside"):
        cli(main)


class TestRunFolder:
    values = {"learning_rate": 1.0, "output_dir": "x"}

    def test_new_unfinished_finished(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run", self.values)
        assert not folder.finished
        folder.begin()
        assert not RunFolder(tmp_path / "run", self.values).finished
        folder.finish({"eval/loss": 1.5})
        assert RunFolder(tmp_path / "run", {**self.values, "output_dir": "moved"}).finished

    def test_other_configuration_is_refused_with_the_keys(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        with pytest.raises(FileExistsError, match=r"learning_rate was 1\.0, now 2\.0.*--overwrite"):
            RunFolder(tmp_path / "run", {**self.values, "learning_rate": 2.0})

    def test_overwrite_replaces_a_run_only_when_it_begins(self, tmp_path: Path) -> None:
        first = RunFolder(tmp_path / "run", self.values)
        first.begin()
        first.finish({})
        second = RunFolder(tmp_path / "run", {"learning_rate": 2.0}, overwrite=True)
        assert not second.finished
        assert (tmp_path / "run" / "metrics.json").exists()
        second.begin()
        assert not (tmp_path / "run" / "metrics.json").exists()

    def test_run_whose_configuration_is_cut_off_is_another_run(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        (tmp_path / "run" / "config.yaml").write_text("learning_rate: [")
        with pytest.raises(FileExistsError, match=r"(?s)cannot be read.*--overwrite"):
            RunFolder(tmp_path / "run", self.values)

    def test_folder_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(PermissionError, match=r"cannot be written, because of '.*file'"):
            RunFolder(tmp_path / "file" / "run", self.values)

    def test_foreign_files_are_never_removed(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(FileExistsError, match="left alone"):
            RunFolder(tmp_path, self.values, overwrite=True)

    @pytest.mark.parametrize("flags", [["--hub_token", "hf_x", "--seed", "2"], ["--hub_token=hf_x", "--seed", "2"]])
    def test_a_token_is_written_nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list) -> None:
        monkeypatch.setattr("sys.argv", ["grpo.py", *flags])
        RunFolder(tmp_path / "run", {**self.values, "hub_token": "hf_x"}).begin()
        written = "".join(file.read_text() for file in (tmp_path / "run").iterdir())
        assert "hf_x" not in written
        assert "--seed" in written

    def test_resumes_from_the_last_complete_checkpoint(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "run", self.values).begin()
        for step, state in ((9, "{}"), (10, "{}"), (20, '{"cut off')):
            checkpoint = tmp_path / "run" / f"checkpoint-{step}"
            checkpoint.mkdir()
            (checkpoint / "trainer_state.json").write_text(state)
        (tmp_path / "run" / "checkpoint-30").mkdir()
        assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-10")
        assert RunFolder(tmp_path / "run", self.values).checkpoint == str(tmp_path / "run" / "checkpoint-10")


def test_reserved_names_stay_free() -> None:
    @dataclass
    class Clash:
        config: str = "x"

    with pytest.raises(UserError, match="config"):
        parse((Clash,), argv=[])
