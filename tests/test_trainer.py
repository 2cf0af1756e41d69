"""The trainer's seams: reflection becomes columns, rollouts never hold image tokens, both engines train."""

from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from tiny_model import gold_completion
from training import LABELS, launch_two, lengths_differ, logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Config, EmoR3Trainer
from emor3_trl.engines.colocated import check_same_prompts, collapse_image_tokens
from emor3_trl.engines.policy import SUPPRESSED_LOGIT, image_token_ids, suppress_image_tokens
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.groups import attention
from emor3_trl.rewards import accuracy_reward, coherence_reward


def write_gold(trainer: EmoR3Trainer, monkeypatch) -> None:
    """Let the engine sample as it does, but hand on well-formed completions: a random model never writes one."""
    stock = EmoR3Trainer._generate_single_turn
    tokenizer = trainer.processing_class.tokenizer

    def gold(self, prompt_ids, *args, **kwargs):
        stock(self, prompt_ids, *args, **kwargs)
        texts = [gold_completion(LABELS[row % len(LABELS)]) for row in range(len(prompt_ids))]
        ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        return ids, None if not self.use_vllm else [[-1.0] * len(row) for row in ids]

    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", gold)


@pytest.mark.parametrize("use_vllm", [True, False], ids=["vllm", "transformers"])
def test_reflection_is_one_call_per_step_and_its_answers_reach_every_reward_as_columns(
    tiny_model_dir, tmp_path, monkeypatch, use_vllm
):
    seen: list[dict] = []
    calls: list[int] = []
    engine = VLLMEngine if use_vllm else TransformersEngine
    stock = engine.choose

    def counted(self, questions):
        calls.append(len(questions))
        return stock(self, questions)

    def reward(completions, **columns):
        seen.append(columns)
        return lengths_differ(completions)

    monkeypatch.setattr(engine, "choose", counted)
    trainer = tiny_trainer(
        tiny_model_dir,
        tmp_path,
        reward_funcs=reward,
        max_steps=2,
        use_vllm=use_vllm,
        parity_stop=1e9,
        parity_warn=1e9,
        side=168,  # 36 image tokens: prompt and question share a whole block of 32
    )
    write_gold(trainer, monkeypatch)
    trainer.train()
    assert len(calls) == 2  # two steps, one call each
    for columns in seen:
        assert set(columns["consistency_answer"]) <= {"Yes", "No"}
        for answer, space in zip(columns["coherence_answer"], columns["label_space"], strict=True):
            assert answer in space
    assert min(logged(trainer, "reflection/requests")) > 0
    for generated, requests in zip(
        logged(trainer, "reflection/generated_tokens"), logged(trainer, "reflection/requests"), strict=True
    ):
        assert generated >= requests
    assert "diagnostics/conclusion_names_valence" in trainer.state.log_history[0]
    if use_vllm:  # the picture of the rollout is in the prefix cache when its consistency is asked
        assert min(logged(trainer, "reflection/cached_tokens")) > 0


def test_the_four_rewards_are_built_from_the_configuration(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, reward_funcs=None, lambda1=0.2, lambda2=0.1, max_steps=1, use_vllm=False
    )
    assert trainer.reward_func_names == ["accuracy_reward", "consistency_reward", "coherence_reward", "format_reward"]
    assert torch.allclose(trainer.reward_weights, torch.tensor([0.7, 0.1, 0.1, 0.1]))
    trainer.train()
    tiny = {"model": trainer.model, "processing_class": trainer.processing_class, "train_dataset": tiny_dataset()}
    assert EmoR3Trainer(args=trainer.args, **tiny).reward_func_names == trainer.reward_func_names  # the cell run twice
    assert {f"rewards/{name}/mean" for name in trainer.reward_func_names} <= set(trainer.state.log_history[0])


@pytest.mark.parametrize("options", [{"lambda1": 0.0}, {"reward_variant": "plain"}], ids=["set-ablation", "plain-grpo"])
def test_without_a_reflective_reward_nothing_is_asked(tiny_model_dir, tmp_path, options):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=None, max_steps=1, use_vllm=False, **options)
    trainer.train()
    assert not [key for key in trainer.state.log_history[0] if key.startswith("reflection/")]


def test_a_reward_that_names_an_answer_gets_it_whatever_lambda1_says(tiny_model_dir, tmp_path):
    options = {"lambda1": 0.0, "use_vllm": False}
    assert tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=coherence_reward, **options).reflects
    assert not tiny_trainer(tiny_model_dir, tmp_path, reward_funcs=accuracy_reward, **options).reflects


@pytest.mark.parametrize(
    ("names", "reflects"),
    [
        pytest.param(["accuracy", "consistency", "format"], True, id="consistency alone"),
        pytest.param(["accuracy", "coherence", "format"], True, id="coherence alone"),
        pytest.param(["accuracy", "format"], False, id="no reflection"),
        pytest.param(["accuracy", "own.py:brief"], False, id="own"),
        pytest.param(["own.py:sure"], True, id="own that reads an answer"),
    ],
)
def test_rewards_of_the_configuration_are_asked_for_what_they_need(
    tiny_model_dir, tmp_path, monkeypatch, names, reflects
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    options = {"reward_funcs": None, "rewards": names, "reward_weights": [0.5] * len(names), "use_vllm": False}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **options)
    assert trainer.reflects is reflects
    titles = [name if ".py:" not in name else name.split(":")[1] for name in names]
    assert [name.removesuffix("_reward") for name in trainer.reward_func_names] == titles


OWN = """
def brief(completions, **columns):
    return [len(completion[0]["content"]) % 5 / 4 for completion in completions]

async def sure(completions, consistency_answer, **columns):
    return [{"Yes": 1.0, "No": 0.25}[answer] for answer in consistency_answer]
"""


def test_named_rewards_are_summed_with_their_weights(tiny_model_dir, tmp_path, monkeypatch):
    """The reward of each logged step is the weighted sum by hand, and so are the advantages of a group."""
    seen, advantages = [], []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    stock, score = EmoR3Trainer._calculate_rewards, EmoR3Trainer._generate_and_score_completions

    def calculate(self, inputs, prompts, completions, ids):
        answers = [row["consistency_answer"] for row in inputs]
        seen.append(([completion[0]["content"] for completion in completions], answers))
        return stock(self, inputs, prompts, completions, ids)

    def keep(self, inputs):
        output = score(self, inputs)
        advantages.append(output["advantages"].clone())
        return output

    monkeypatch.setattr(EmoR3Trainer, "_calculate_rewards", calculate)
    monkeypatch.setattr(EmoR3Trainer, "_generate_and_score_completions", keep)
    names = ["own.py:brief", "format", "own.py:sure"]
    options = {"reward_funcs": None, "rewards": names, "reward_weights": [2.0, 0.5, -1.0], "max_steps": 2}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False, **options)
    write_gold(trainer, monkeypatch)
    trainer.train()
    for step, (texts, answers) in enumerate(seen):
        brief = torch.tensor([len(text) % 5 / 4 for text in texts])
        sure = torch.tensor([{"Yes": 1.0, "No": 0.25}[answer] for answer in answers])
        total = 2.0 * brief + 0.5 * 1.0 - 1.0 * sure  # gold completions are well formed
        entry = trainer.state.log_history[step]
        assert entry["rewards/brief/mean"] == pytest.approx(brief.mean().item())
        assert entry["rewards/sure/mean"] == pytest.approx(sure.mean().item())
        assert entry["reward"] == pytest.approx(total.mean().item())
        groups = total.view(-1, 4)
        expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        ranked = sorted(advantages[step].tolist())  # rows are shuffled by then
        assert ranked == pytest.approx(sorted(expected.flatten().tolist()), abs=1e-4)
    assert len(seen) == 2


def test_reflection_without_vllm_is_refused_where_ranks_must_call_the_model_together(tmp_path, monkeypatch):
    args = EmoR3Config(output_dir=str(tmp_path), use_cpu=True, bf16=False, use_vllm=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"use_vllm is false.*ddp\.yaml"):
        EmoR3Trainer(model="no/such/model", args=args, train_dataset=tiny_dataset())


def test_image_tokens_are_never_sampled_and_both_sides_leave_them_out(tiny_model_dir):
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    ids = processor.tokenizer("a picture of the sea", return_tensors="pt")
    before = model(**ids).logits.detach()
    suppress_image_tokens(model, processor)
    after = model(**ids).logits.detach()
    expected = before.clone()
    expected[..., image_token_ids(processor)] += SUPPRESSED_LOGIT
    assert torch.equal(after, expected)
    assert "lm_head.bias" not in model.state_dict()
    assert "lm_head.bias" not in dict(model.named_parameters())


class Engine(torch.nn.Module):
    """A model as DeepSpeed wraps it: its configuration is DeepSpeed's own."""

    def __init__(self, module):
        super().__init__()
        self.module, self.config = module, {}

    def __getattr__(self, name):
        return self._modules["module"] if name == "module" else getattr(self._modules["module"], name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_reference_model_in_an_engine_of_deepspeed_is_prepared_like_the_policy(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "prepare_model", lambda self, model, **kwargs: Engine(model))
    monkeypatch.setattr(Accelerator, "unwrap_model", lambda self, model, **kwargs: getattr(model, "module", model))
    trainer = tiny_trainer(tiny_model_dir, tmp_path, beta=0.01, use_vllm=False)
    assert isinstance(trainer.ref_model, Engine)
    reference = trainer.ref_model.module
    assert reference.get_output_embeddings().bias.min() == SUPPRESSED_LOGIT
    assert reference.config.get_text_config()._attn_implementation == attention.ATTENTION


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        pytest.param([1, 9, 9, 9, 2], [1, 9, 2], id="one-image"),
        pytest.param([9, 9, 1, 9, 2], [9, 1, 9, 2], id="two-images"),
        pytest.param([1, 2], [1, 2], id="text-only"),
        pytest.param([1, 9, 2], [1, 9, 2], id="one-merged-token"),
        pytest.param([], [], id="empty"),
    ],
)
def test_each_run_of_image_tokens_becomes_one_placeholder(ids, expected):
    assert collapse_image_tokens(ids, image_token_id=9) == expected


def test_another_prompt_in_vllm_is_an_error_with_its_numbers():
    check_same_prompts([[1, 2]], [[1, 2]])
    with pytest.raises(RuntimeError, match=r"prompt 1: 4 tokens in vLLM, 3 in the trainer.*pixel budget"):
        check_same_prompts([[1], [1, 2, 3]], [[1], [1, 2, 2, 3]])


def test_a_data_set_without_the_columns_is_refused_before_a_model_loads(tmp_path):
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}], "label": "awe"}])
    args = EmoR3Config(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match="image, emotion, label_space missing"):
        EmoR3Trainer(model="no/such/model", args=args, train_dataset=rows)


def all_alike(completions: list, **columns: Any) -> list[float]:
    """A reward that never separates the completions of a group."""
    return [1.0] * len(completions)


def test_dead_groups_are_counted_for_the_rewards_that_train(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, max_steps=1, use_vllm=False, reward_funcs=[all_alike, lengths_differ],
        reward_weights=[1.0, 0.0],
    )  # fmt: skip
    trainer.train()
    spreads = {key: value for key, value in trainer.state.log_history[0].items() if "zero_spread" in key}
    assert set(spreads) == {f"diagnostics/zero_spread/{name}" for name in ("all_alike", "lengths_differ", "overall")}
    assert spreads["diagnostics/zero_spread/all_alike"] == spreads["diagnostics/zero_spread/overall"] == 1.0
    assert spreads["diagnostics/zero_spread/lengths_differ"] < 1.0


@pytest.mark.long
def test_diagnostics_are_logged_where_a_process_holds_a_part_of_a_group(tiny_model_dir, tmp_path):
    options = {"num_generations": 8, "per_device_train_batch_size": 4, "use_vllm": False, "max_steps": 1, "fixed": True}
    history = launch_two(tiny_model_dir, tmp_path, options)
    assert history["processes"] == 2
    assert history["log"][0]["diagnostics/zero_spread/lengths_differ"] in (0.0, 1.0)  # of one group over both
    assert history["log"][0]["diagnostics/no_answer"] == 1.0


def test_own_rewards_on_own_columns_need_none_of_ours(tiny_model_dir, tmp_path):
    rows = tiny_dataset().remove_columns(["emotion", "label_space", "id", "source"])
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=1, use_vllm=False, lambda1=0.0, rows=rows)
    trainer.train()
    logged_names = set(trainer.state.log_history[0])
    assert "diagnostics/zero_spread/lengths_differ" in logged_names
    assert not {name for name in logged_names if name.startswith("diagnostics/answer")}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda make, bare: make(eval_strategy="steps", eval_rows=bare), id="eval_dataset"),
        pytest.param(lambda make, bare: make(eval_strategy="steps", eval_rows={"own": bare}), id="eval_datasets"),
        pytest.param(lambda make, bare: make().evaluate(bare), id="evaluate"),
        pytest.param(lambda make, bare: make(rows=bare.to_iterable_dataset().map(dict)).train(), id="mapped-stream"),
    ],
)
def test_rows_without_the_columns_are_refused_wherever_they_come_from(tiny_model_dir, tmp_path, use):
    options = {"max_steps": 1, "use_vllm": False, "reward_funcs": None, "lambda1": 0.0}
    make = partial(tiny_trainer, tiny_model_dir, tmp_path, **options)
    with pytest.raises(ValueError, match="emotion missing"):
        use(make, tiny_dataset().remove_columns(["emotion"]))


def test_arguments_stand_in_the_order_of_trl(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = EmoR3Config(str(tmp_path), use_cpu=True, bf16=False, use_vllm=False, max_completion_length=16)
    trainer = EmoR3Trainer(str(tiny_model_dir), lengths_differ, args, tiny_dataset())
    assert trainer.reward_func_names == ["lengths_differ"]
    with pytest.raises(ValueError, match="args=…"):
        EmoR3Trainer(str(tiny_model_dir), args, tiny_dataset())


def test_completions_are_logged_with_their_steps_and_reflections(tiny_model_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(
        tiny_model_dir,
        tmp_path,
        max_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        parity_stop=1e9,
        parity_warn=1e9,
    )
    write_gold(trainer, monkeypatch)
    trainer.train()
    table = pd.concat(pd.read_parquet(file) for file in (tmp_path / "completions").glob("*.parquet"))
    assert {"trigger", "feeling", "conclusion", "answer", "consistency_answer", "coherence_answer"} <= set(table)
    assert table["trigger"].str.contains("night sky").all()
    assert table["answer"].isin(LABELS).all()
    shown = {row["id"]: row["emotion"] for row in tiny_dataset()}
    assert table["emotion"].tolist() == [shown[image] for image in table["id"]]
