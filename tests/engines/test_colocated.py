"""Sleep mode, without a GPU: the engine wakes with fresh weights and caches, and sleeps when reflection is done."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from trl.generation.vllm_generation import VLLMGeneration

from emor3_trl.engines.colocated import ColocatedEngine

WAKE = ["wake weights", "push weights", "reset prefix cache", "reset encoder cache", "wake kv_cache"]


class RecordingLLM:
    """Remembers what is done to it; as strict as vLLM about memory that sleeps."""

    def __init__(self):
        self.calls: list[str] = []
        self.awake: set[str] = set()
        self.llm_engine = SimpleNamespace(reset_encoder_cache=lambda: self.calls.append("reset encoder cache"))

    def wake_up(self, tags):
        assert not self.awake & set(tags), "woken twice"
        self.awake |= set(tags)
        self.calls += [f"wake {tag}" for tag in tags]

    def sleep(self, level):
        assert level == 2
        self.awake.clear()
        self.calls.append("sleep")

    def reset_prefix_cache(self):
        self.calls.append("reset prefix cache")

    def generate(self, prompts, sampling_params, use_tqdm):
        assert self.awake == {"weights", "kv_cache"}
        self.calls.append("generate")
        written = SimpleNamespace(token_ids=[7], logprobs=None)
        return [SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[written]) for prompt in prompts]


@pytest.fixture
def engine(monkeypatch):
    def init_vllm(self):
        self.llm = RecordingLLM()
        self._llm_weights_sleeping = self.enable_sleep_mode

    def named_params(self):
        self.llm.calls.append("push weights")
        return iter(())

    monkeypatch.setattr(VLLMGeneration, "_init_vllm", init_vllm)
    monkeypatch.setattr(VLLMGeneration, "_iter_named_params", named_params)
    accelerator = SimpleNamespace(num_processes=2)
    monkeypatch.setattr("trl.generation.vllm_generation.DistributedBackend", lambda accelerator: None)
    built = ColocatedEngine(torch.nn.Identity(), accelerator, SimpleNamespace(), options={}, enable_sleep_mode=True)
    built.stays_awake = True  # as EmoR3Trainer sets it
    return built


def test_without_reflection_the_engine_sleeps_as_soon_as_it_has_generated(engine):
    engine.stays_awake = False
    engine.generate([[1, 2]], None, 1)
    assert engine.llm.calls == [*WAKE, "generate", "sleep"]


def test_the_engine_is_awake_until_reflection_is_done(engine):
    engine.generate([[1, 2]], None, 1)
    assert engine.llm.calls == [*WAKE, "generate"]
    engine.llm.generate([{"prompt_token_ids": [3]}], None, False)  # reflection
    engine.sleep()
    engine.sleep()
    assert engine.llm.calls == [*WAKE, "generate", "generate", "sleep"]


def test_weights_that_the_trainer_has_pushed_are_not_pushed_again(engine):
    engine.sync_weights()  # TRL's trainer does, when the step has changed
    engine.generate([[1, 2]], None, 1)
    assert engine.llm.calls == [*WAKE, "generate"]
    engine.sleep()
    engine.generate([[1, 2]], None, 1)  # the same step again: level 2 has discarded the weights
    assert engine.llm.calls == [*WAKE, "generate", "sleep", *WAKE, "generate"]


def test_options_of_the_user_stay_as_they_are(engine):
    own = {"stop": ["x"]}
    accelerator = SimpleNamespace(num_processes=2)
    processor = SimpleNamespace(image_token_id=5)
    other = ColocatedEngine(torch.nn.Identity(), accelerator, processor, options={}, generation_kwargs=own)
    other.enable_sleep_mode = False
    other.llm.awake = {"weights", "kv_cache"}
    other.generate([[1, 2]], None, 1)
    assert other.generation_kwargs["logit_bias"] == {5: -100.0}
    assert own == {"stop": ["x"]}


BUILD_TWICE = """
import os, sys
from pathlib import Path
from training import logged, tiny_trainer
for cell in range(2):
    trainer = tiny_trainer(Path(sys.argv[1]), Path(sys.argv[2]) / str(cell), max_steps=2)
    trainer.train()
    assert max(logged(trainer, "sampling/sampling_logp_difference/mean")) < 1e-5
    assert "WORLD_SIZE" not in os.environ
"""


@pytest.mark.long
def test_a_trainer_is_built_twice_in_one_process_and_two_processes_start_together(tiny_model_dir, tmp_path):
    """A notebook's cell is run again, beside another run on the same machine."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD_TWICE, str(tiny_model_dir), str(tmp_path / name)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def test_an_adapter_that_fsdp1_flattens_is_refused(engine, monkeypatch):
    monkeypatch.setattr("emor3_trl.engines.colocated.is_peft_model", lambda model: True)
    fsdp = SimpleNamespace(is_fsdp=True, fsdp_version=1)
    monkeypatch.setattr("trl.generation.vllm_generation.DistributedBackend", lambda accelerator: fsdp)
    with pytest.raises(ValueError, match=r"FSDP version 1 flattens an adapter.*fsdp_version: 2"):
        ColocatedEngine(torch.nn.Identity(), SimpleNamespace(num_processes=2), SimpleNamespace(), options={})
