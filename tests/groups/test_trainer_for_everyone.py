"""`GroupTrainer` for any user of TRL: no emotions, rewards of one's own, text or images, and the numbers of TRL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_model import CHAT_TEMPLATE, tiny_pictures
from training import fixed_completions, logged
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, Qwen2Config
from trl import GRPOConfig, GRPOTrainer

from emor3_trl import GroupTrainer

TOLERANCE = 1e-5  # relative, float32


@pytest.fixture(scope="module")
def text_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with its tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = AutoProcessor.from_pretrained(tiny_model_dir).tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("processor_class", None)  # of the vision-language model that the tokenizer was made for
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def rows(kind: str) -> Dataset:
    """Return six questions: about nothing but text, about an image, or about one or two images."""
    questions = [f"What is it that you see, number {index}?" + " Look." * index for index in range(6)]
    images = tiny_pictures(6)
    data: list[dict[str, Any]] = [{"prompt": [{"role": "user", "content": question}]} for question in questions]
    for index, row in enumerate(data):
        if kind == "image":
            row["image"] = images[index]
        if kind == "images":
            row["images"] = images[index : index + 1 + index % 2]
    return Dataset.from_list(data)


def length_reward(completions: list, **columns: Any) -> list[float]:
    """A reward that always varies inside a group."""
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def train(trainer_class: type[GRPOTrainer], model_dir: Path, folder: Path, kind: str, **options: Any) -> GRPOTrainer:
    """Take steps with a trainer of TRL's interface and a plain `GRPOConfig`."""
    args = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
        learning_rate=1e-4, beta=0.04, bf16=False, use_cpu=True, logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False, max_grad_norm=1e9, adam_epsilon=1e-5, seed=0,
        **{"max_steps": 5, "shuffle_dataset": False, **options},
    )  # fmt: skip
    text = kind == "text"
    trainer = trainer_class(
        (AutoModelForCausalLM if text else AutoModelForImageTextToText).from_pretrained(model_dir, dtype=torch.float32),
        length_reward,
        args,
        rows(kind),
        processing_class=(AutoTokenizer if text else AutoProcessor).from_pretrained(model_dir, padding_side="left"),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["text", "image", "images"])
def test_five_steps_are_those_of_trl(tiny_model_dir, text_model_dir, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", fixed_completions)
    model_dir = text_model_dir if kind == "text" else tiny_model_dir
    shared, stock = (train(cls, model_dir, tmp_path / cls.__name__, kind) for cls in (GroupTrainer, GRPOTrainer))
    assert shared.shares_prefix
    assert max(logged(shared, "shared_prefix/token_share")) < 0.7
    for name in ("loss", "grad_norm", "kl", "entropy", "reward"):
        values, expected = logged(shared, name), logged(stock, name)
        assert len(values) == 5
        assert values == pytest.approx(expected, rel=TOLERANCE, abs=2e-7), name
    start = (AutoModelForCausalLM if kind == "text" else AutoModelForImageTextToText).from_pretrained(model_dir)
    moved = 0.0
    for (name, parameter), expected, before in zip(
        shared.model.named_parameters(), stock.model.parameters(), start.parameters(), strict=True
    ):
        difference = (parameter - expected).norm() / expected.norm().clamp_min(1e-12)
        assert difference <= TOLERANCE, name
        moved = max(moved, ((expected - before).norm() / expected.norm().clamp_min(1e-12)).item())
    assert moved > 100 * TOLERANCE  # there was something to get wrong


@pytest.mark.parametrize("kind", ["text", "image", "images"])
def test_rollouts_of_vllm_are_those_of_the_policy(tiny_model_dir, text_model_dir, tmp_path, kind):
    model_dir = text_model_dir if kind == "text" else tiny_model_dir
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 512, "max_steps": 2}
    trainer = train(GroupTrainer, model_dir, tmp_path, kind, **options)
    gaps = logged(trainer, "sampling/sampling_logp_difference/mean")
    assert len(gaps) == 2
    assert max(gaps) <= TOLERANCE


def test_each_image_of_a_list_is_processed_once(tiny_model_dir, tmp_path):
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 512, "max_steps": 3}
    trainer = train(GroupTrainer, tiny_model_dir, tmp_path, "images", **options)
    # Six rows hold images 0, 1 2, 2, 3 4, 4, 5; each rollout is about two rows
    assert logged(trainer, "images/processed") == [3, 3, 2]
    assert logged(trainer, "images/decoded") == [3, 3, 2]


def test_the_readme_s_example_runs_as_it_is_written(text_model_dir, tmp_path, monkeypatch):
    """Run the ten lines of the README on the tiny model, with vLLM and a step."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    code = next(block for block in blocks if "GroupTrainer" in block)
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen" / "Qwen2.5-0.5B-Instruct").symlink_to(text_model_dir)
    stock = GRPOConfig.__post_init__

    def small(self):
        self.bf16, self.use_cpu, self.max_steps, self.report_to = False, True, 1, []
        self.max_completion_length, self.gradient_checkpointing, self.save_strategy = 8, False, "no"
        self.model_init_kwargs, self.vllm_max_model_length = {"dtype": "float32"}, 256
        stock(self)

    monkeypatch.setattr(GRPOConfig, "__post_init__", small)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["trainer"].state.global_step == 1
    assert names["trainer"].shares_prefix
