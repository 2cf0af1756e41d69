"""Each family's own configurations on its tiny model with the real vLLM: rollouts, reflection, evaluation, new weights.

One engine a configuration is built once, trains three steps, and answers all that is asked below. The 3B model's tied
head: engines/test_parity.py; its configurations: recipes/test_configs.py.
"""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from families import WHOLE
from recipe_commands import ROOT
from tiny_model import gold_completion
from training import LABELS, lengths_differ, logged, tiny_dataset
from transformers import AutoProcessor
from trl import ModelConfig, get_peft_config

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.engines import colocated
from emor3_trl.engines.engine import Engine
from emor3_trl.engines.parity import OffPolicyError
from emor3_trl.engines.policy import SUPPRESSED_LOGIT
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.reflection import Reflector
from emor3_trl.run.arguments import GRPOArguments
from emor3_trl.run.command_line import parse_arguments

pytestmark = pytest.mark.slow
SMALL = {
    "processes": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "steps_per_generation": 1,
    "num_generations": 4, "max_steps": 3, "max_completion_length": 16, "vllm_max_model_length": 512,
    "vllm_gpu_memory_utilization": 0.2, "learning_rate": 1e-3, "save_strategy": "no", "disable_tqdm": True,
    "bf16": False, "dtype": "float32", "vllm_enable_sleep_mode": False, "use_cpu": True, "report_to": "none",
}  # fmt: skip
# What is looked at of a configuration beyond its sizes: LLaVA's freezes its tower, whose weights are to move here
CONFIGURATIONS = {"emo_r3": {"freeze_vision_tower": False}, "emo_r3_lora_80gb": {}}
GAP = "sampling/sampling_logp_difference/max"


def two_rows() -> Dataset:
    """Return two rows: with two prompts a step, their pictures come back in each."""
    return tiny_dataset().select(range(2))


def train_as_configured(family: str, configuration: str, folder: Path) -> EmoR3Trainer:
    """Take three steps of a family's configuration, in which only sizes and what needs a GPU differ."""
    model_dir = WHOLE[family](folder / "model")
    overrides = {**SMALL, **CONFIGURATIONS[configuration], "model_name_or_path": model_dir}
    overrides |= {"output_dir": folder / "run", "data": folder}
    argv = ["--config", str(ROOT / "recipes" / "configs" / family / f"{configuration}.yaml")]
    argv += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    _, model, args = parse_arguments((GRPOArguments, ModelConfig, EmoR3Config), argv=argv).arguments
    trainer = EmoR3Trainer(
        model=model.model_name_or_path,
        args=args,
        reward_funcs=lengths_differ,
        train_dataset=two_rows(),
        processing_class=AutoProcessor.from_pretrained(model_dir),
        peft_config=get_peft_config(model),
    )
    trainer.first_weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return trainer


@pytest.fixture(
    scope="module",
    params=[pytest.param((family, name), id=f"{family}-{name}") for family in WHOLE for name in CONFIGURATIONS],
)
def trained(request, tmp_path_factory):
    """A trainer after three steps, its engine awake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_PORT", "0")
        return train_as_configured(*request.param, tmp_path_factory.mktemp("_".join(request.param)))


def test_every_sampled_token_is_as_likely_in_both_while_all_that_trains_moves(trained):
    gaps = logged(trained, GAP)
    assert len(gaps) == 3
    assert max(gaps) <= 1e-5, gaps
    weights = dict(trained.model.named_parameters())
    still = {name for name, weight in weights.items() if torch.equal(weight, trained.first_weights[name])}
    adapters = {name for name in weights if ".lora_" in name}
    if adapters:
        assert still == weights.keys() - adapters
        return
    # Key biases cancel in the softmax; of CLIP, the features before the last layer are taken
    unused = ("k_proj.bias", "vision_tower.encoder.layers.1.", "post_layernorm")
    assert [name for name in still if not any(part in name for part in unused)] == []


def test_a_group_shares_its_prompt(trained):
    assert trained.shares_prefix
    assert max(logged(trained, "shared_prefix/token_share")) < 0.5


def test_image_tokens_are_never_sampled(trained):
    bias = trained.vllm_generation.generation_kwargs["logit_bias"]
    assert bias[trained.model.config.image_token_id] == SUPPRESSED_LOGIT


def ask(engine: Engine) -> tuple[list, list]:
    """Return the reflection on eight completions, and the predictions for two images."""
    rows = tiny_dataset()
    written = [gold_completion(LABELS[row % len(LABELS)]) for row in range(len(rows))]
    reflections = Reflector(engine).reflect(rows["image"], written, rows["label_space"])
    options = PredictionOptions(max_tokens=8, score_labels=True)
    return reflections, predict_emotions(engine, two_rows(), "test", options, progress=False)


def test_the_engine_answers_as_the_model_does_after_the_last_update(trained):
    with trained.open_engine() as engine:
        reflections, predictions = ask(engine)
    expected = ask(TransformersEngine(trained.model, trained.processing_class))
    assert reflections == expected[0]
    assert {reflection.consistency_answer for reflection in reflections} <= {"Yes", "No"}
    assert all(reflection.coherence_answer for reflection in reflections)
    for found, other in zip(predictions, expected[1], strict=True):
        assert found.completion.rstrip("\ufffd") == other.completion.rstrip("\ufffd")
        assert found.label_probabilities == pytest.approx(other.label_probabilities, abs=1e-5)


def test_a_prompt_with_expanded_image_tokens_is_noticed(trained, monkeypatch):
    row = two_rows()[0]
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]}]}]
    text = trained.processing_class.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = trained.processing_class(text=[text], images=[[row["image"]]])["input_ids"]
    trained.vllm_generation.generate(ids, [[row["image"]]], 1)  # as it should be
    monkeypatch.setattr(colocated, "collapse_image_tokens", lambda prompt_ids, image_token_id: list(prompt_ids))
    with pytest.raises((OffPolicyError, ValueError)):
        trained.vllm_generation.generate(ids, [[row["image"]]], 1)
