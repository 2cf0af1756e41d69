"""TRL's own losses with the four rewards: each is its paper's formula, and the shared prefix changes none of them.

Rollouts are recorded: twelve completions in three groups. In the first all rewards differ, in the second consistency
alone, in the third none. Each is used for two updates, in the second of which the ratio is not 1.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from datasets import Dataset
from tiny_model import tiny_pictures
from training import logged, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOTrainer

from emor3_trl import EmoR3Config, EmoR3Trainer, rewards
from emor3_trl.engines.policy import suppress_image_tokens
from emor3_trl.groups.checks import CHOICES
from emor3_trl.prompts import prompt_text

DOCS = Path(__file__).parents[1] / "docs" / "LOSSES.md"
DEFAULTS = ("sum_then_normalize", "group", "token")
TOLERANCE = 1e-5  # relative, float32
G, WEIGHTS = 4, [0.8, 0.05, 0.05, 0.1]
LABELS = ["awe", "fear", "joy"]
SEEN, VAGUE = "A wide night sky above a small tent.", "Something."


def write_completion(trigger: str, felt: str, answer: str, end: str = "") -> str:
    return f"<step1>{trigger}</step1><step2>{felt}</step2><step3>Positive.</step3>\\boxed{{{answer}}}{end}"


GROUPS = (
    (
        write_completion(SEEN, "awe", "awe"),
        write_completion(VAGUE, "fear", "awe"),
        write_completion(SEEN, "awe", "fear"),
        "A small tent, so \\boxed{fear}",
    ),
    tuple(write_completion(trigger, "awe", "awe") for trigger in (SEEN, VAGUE, VAGUE, VAGUE)),
    tuple(write_completion(SEEN + " A tent." * count, "awe", "awe") for count in range(G)),
)


def consistency_reward(completions: list, **columns: Any) -> list[float]:
    """The project's, with a recorded answer: the policy finds true what was seen."""
    answers = ["Yes" if SEEN in completion[0]["content"] else "No" for completion in completions]
    return rewards.consistency_reward(completions, answers)


def coherence_reward(completions: list, emotion: list, label_space: list, **columns: Any) -> list[float]:
    """The project's, with a recorded answer: the policy reads the emotion that step 2 names."""
    answers = ["awe" if "<step2>awe" in completion[0]["content"] else "fear" for completion in completions]
    return rewards.coherence_reward(completions, emotion, label_space, answers)


FOUR = [rewards.accuracy_reward, consistency_reward, coherence_reward, rewards.format_reward]
# What each completion earns: accuracy, consistency, coherence, format
EARNED = [
    [1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0],
    [1, 1, 1, 1], *[[1, 0, 1, 1]] * 3,
    *[[1, 1, 1, 1]] * 4,
]  # fmt: skip


class Update(NamedTuple):
    """One micro-batch of a run, in the trainer's order of rows."""

    batch: dict[str, Any]
    log_probs: torch.Tensor  # (B, T)
    entropies: torch.Tensor  # (B, T)
    loss: float


class Run(NamedTuple):
    trainer: Any
    updates: list[Update]
    gradients: list[dict[str, torch.Tensor]]  # of each optimizer step


def recorded_completions(trainer: GRPOTrainer, prompt_ids: list, *args: Any, **kwargs: Any) -> tuple:
    """Stand in for generation: the groups' completions, in the order of the rollout's rows."""
    tokenizer = trainer.processing_class.tokenizer
    texts = [text for group in GROUPS for text in group][: len(prompt_ids)]
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts], None


class KeepGradients(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        named = model.named_parameters()
        self.steps.append({name: weight.grad.clone() for name, weight in named if weight.grad is not None})


def train(kind: type[GRPOTrainer], model_dir: Path, folder: Path, monkeypatch: Any, **options: Any) -> Run:
    """Use one rollout for two updates; `kind` is TRL's trainer or ours."""
    updates: list[Update] = []
    stock = GRPOTrainer._compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        score, scores = self._get_per_token_logps_and_entropies, []

        def scored(*args: Any, **kwargs: Any) -> tuple:
            scores.append(score(*args, **kwargs))
            return scores[-1]

        self._get_per_token_logps_and_entropies = scored
        loss = stock(self, model, inputs)
        del self._get_per_token_logps_and_entropies
        updates.append(Update(inputs, scores[0][0].detach(), scores[0][1].detach(), loss.item()))
        return loss

    arguments: dict[str, Any] = {
        "use_vllm": False, "beta": 0.0, "delta": None, "num_iterations": 2, "max_steps": 2, "optim": "sgd",
        "learning_rate": 2.0, "weight_decay": 0.0, "max_grad_norm": 1e9, "max_completion_length": 96,
        "per_device_train_batch_size": 12, "reward_weights": WEIGHTS, "reward_funcs": FOUR, "lambda1": 0.0,
        "probe_steps": 0,
    } | options  # fmt: skip
    prompt = [{"role": "user", "content": prompt_text("set", LABELS)}]
    rows = Dataset.from_list(
        [{"image": image, "prompt": prompt, "emotion": "awe", "label_space": LABELS} for image in tiny_pictures(3)]
    )
    keeper = KeepGradients()
    with monkeypatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_single_turn", recorded_completions)
        patch.setattr(GRPOTrainer, "_compute_loss", watched)
        trainer: Any = tiny_trainer(model_dir, folder, rows=rows, **arguments)
        if kind is GRPOTrainer:
            processor = AutoProcessor.from_pretrained(model_dir, padding_side="left")
            model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
            trainer = GRPOTrainer(model, FOUR, trainer.args, rows, processing_class=processor)
            suppress_image_tokens(trainer.model, processor)  # of which ours gives no rollout any
        trainer.add_callback(keeper)
        trainer.train()
    return Run(trainer, updates, keeper.steps)


def scale(values: list[float]) -> list[float]:
    return [(value - mean(values)) / (stdev(values) + 1e-4) for value in values]


def sum_then_normalize(earned: list[list[float]], deviates: bool = True) -> list[float]:
    """GRPO: the weighted sum less its group's mean, over its group's deviation; Dr. GRPO leaves that out."""
    totals = [sum(w * r for w, r in zip(WEIGHTS, row, strict=True)) for row in earned]
    groups = [totals[start : start + G] for start in range(0, len(totals), G)]
    if deviates:
        return [advantage for group in groups for advantage in scale(group)]
    return [total - mean(group) for group in groups for total in group]


def normalize_then_sum(earned: list[list[float]]) -> list[float]:
    """GDPO: each reward over its own deviation in the group, weighted and added, then over that of the batch."""
    totals = []
    for start in range(0, len(earned), G):
        columns = [scale([float(value) for value in column]) for column in zip(*earned[start : start + G], strict=True)]
        totals += [sum(w * z for w, z in zip(WEIGHTS, row, strict=True)) for row in zip(*columns, strict=True)]
    return scale(totals)


def clip(ratio: float, advantage: float, low: float = 0.2, high: float = 0.3) -> float:
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


class Completion(NamedTuple):
    """What a loss reads of one completion: its advantage, and the numbers of its tokens."""

    advantage: float
    log_probs: list[float]
    ratios: list[float]
    entropies: list[float]

    @property
    def sequence_ratio(self) -> float:
        return math.exp(mean(map(math.log, self.ratios)))


def read_completions(update: Update) -> list[Completion]:
    old = update.batch.get("old_per_token_logps")
    assert old is not None  # two updates of one rollout
    rows = []
    for row, length in enumerate(update.batch["completion_mask"].sum(dim=1).tolist()):
        numbers = (update.log_probs, (update.log_probs - old).exp(), update.entropies)
        advantage = update.batch["advantages"][row].item()
        rows.append(Completion(advantage, *(values[row, :length].tolist() for values in numbers)))
    return rows


def mean_of_tokens(rows: list[Completion], weigh: Callable[[float, float, float, float], float]) -> float:
    """Return the mean over all tokens of what `weigh` makes of ratio, advantage, log-probability and entropy."""
    return mean(
        weigh(ratio, row.advantage, log_prob, entropy)
        for row in rows
        for ratio, log_prob, entropy in zip(row.ratios, row.log_probs, row.entropies, strict=True)
    )


def token_mean(rows: list[Completion]) -> float:
    return mean_of_tokens(rows, lambda ratio, advantage, *_: clip(ratio, advantage))


def constant_length(rows: list[Completion]) -> float:
    return sum(clip(ratio, row.advantage) for row in rows for ratio in row.ratios) / (len(rows) * 96)


def sequence_ratio(rows: list[Completion]) -> float:
    return mean(clip(row.sequence_ratio, row.advantage, 3e-4, 4e-4) for row in rows)


def times_length(rows: list[Completion]) -> float:
    return mean(len(row.ratios) * clip(row.sequence_ratio, row.advantage, 3e-4, 4e-4) for row in rows)


def clipped_weight(rows: list[Completion]) -> float:
    return mean_of_tokens(rows, lambda ratio, advantage, log_prob, _: -min(ratio, 1.2) * advantage * log_prob)


def soft_gate(rows: list[Completion]) -> float:
    def gate(ratio: float, advantage: float) -> float:
        temperature = 1.0 if advantage > 0 else 1.05
        return -4 / temperature / (1 + math.exp(-temperature * (ratio - 1))) * advantage

    return mean(mean(gate(ratio, row.advantage) for ratio in row.ratios) for row in rows)


def top_fifth(rows: list[Completion]) -> float:
    """The 20% of the tokens with the largest entropy; the limit lies between two tokens, where the quantile does."""
    ordered = sorted(entropy for row in rows for entropy in row.entropies)
    place = 0.8 * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    limit = below + (place - math.floor(place)) * (above - below)
    kept = sum(entropy >= limit for entropy in ordered)
    assert kept == len(ordered) - math.ceil(place)
    return mean_of_tokens(rows, lambda r, advantage, _, entropy: clip(r, advantage) * (entropy >= limit))


SEQUENCE = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
LOSSES = [
    pytest.param({"loss_type": "bnpo"}, token_mean, id="paper"),
    pytest.param({"multi_objective_aggregation": "normalize_then_sum"}, token_mean, id="gdpo"),
    pytest.param({"loss_type": "dr_grpo", "scale_rewards": "none"}, constant_length, id="dr_grpo"),
    pytest.param({"loss_type": "grpo", **SEQUENCE}, sequence_ratio, id="gspo"),
    pytest.param({"loss_type": "cispo", "epsilon_high": 1.2}, clipped_weight, id="cispo"),
    pytest.param({"top_entropy_quantile": 0.2}, top_fifth, id="entropy"),
    pytest.param({"loss_type": "dapo"}, token_mean, id="dapo", marks=pytest.mark.slow),
    pytest.param({"loss_type": "sapo"}, soft_gate, id="sapo", marks=pytest.mark.slow),
    pytest.param({"loss_type": "luspo", **SEQUENCE}, times_length, id="luspo", marks=pytest.mark.slow),
]  # fmt: skip


def assert_same_gradients(found: Run, expected: Run) -> None:
    assert len(found.gradients) == len(expected.gradients) == 2
    for gradients, wanted in zip(found.gradients, expected.gradients, strict=True):
        assert gradients.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert (gradients[name] - gradient).norm() <= TOLERANCE * gradient.norm().clamp_min(1e-7), name


@pytest.mark.parametrize(("options", "loss"), LOSSES)
def test_a_loss_is_its_papers_and_the_shared_prefix_changes_nothing(
    tiny_model_dir, tmp_path, monkeypatch, options, loss
):
    ours, stock = (
        train(kind, tiny_model_dir, tmp_path / kind.__name__, monkeypatch, **options)
        for kind in (EmoR3Trainer, GRPOTrainer)
    )
    assert max(logged(ours.trainer, "shared_prefix/token_share")) < 0.5
    # The four rewards, and the advantages that are made of them
    by_name = ours.trainer._logs["rewards"]
    earned = [list(row) for row in zip(*(by_name[function.__name__] for function in FOUR), strict=True)]
    assert earned == EARNED
    if "multi_objective_aggregation" in options:
        by_hand = normalize_then_sum(earned)
    else:
        by_hand = sum_then_normalize(earned, deviates="scale_rewards" not in options)
    assert list(ours.trainer._logs["advantages"]) == pytest.approx(by_hand, abs=2e-5)
    # The formula, where the ratio is 1 and where it is not
    for update, wanted in zip(ours.updates, stock.updates, strict=True):
        rows = read_completions(update)
        assert sorted(row.advantage for row in rows) == pytest.approx(sorted(by_hand), abs=2e-5)
        assert update.loss == pytest.approx(loss(rows), rel=TOLERANCE, abs=1e-6)
        assert update.loss == pytest.approx(wanted.loss, rel=TOLERANCE, abs=1e-6)
    learning = [row for row in read_completions(ours.updates[1]) if row.advantage]
    assert max(abs(ratio - 1) for row in learning for ratio in row.ratios) > 0.3  # the clip is reached
    assert_same_gradients(ours, stock)
    # The third group has no advantage and costs no forward, unless the loss reads its tokens or GDPO rounds its mean
    skips = options.keys().isdisjoint({"multi_objective_aggregation", "top_entropy_quantile"})
    shares = logged(ours.trainer, "rollout/skipped_share")
    assert shares == ([pytest.approx(1 / 3)] if skips else [] if "top_entropy_quantile" in options else [0.0])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"loss_type": "cispo", "epsilon_high": 1.2}, id="cispo"),
        pytest.param({"loss_type": "grpo", **SEQUENCE}, id="gspo", marks=pytest.mark.slow),
    ],
)
def test_a_micro_batch_that_is_left_out_still_counts(tiny_model_dir, tmp_path, monkeypatch, options):
    """TRL shuffles completions into micro-batches, ours keeps groups whole; the sum of the gradients is the same."""
    split = {**options, "per_device_train_batch_size": G, "gradient_accumulation_steps": 3}
    ours, stock = (
        train(kind, tiny_model_dir, tmp_path / kind.__name__, monkeypatch, **split)
        for kind in (EmoR3Trainer, GRPOTrainer)
    )
    advantages = [update.batch["advantages"].abs().max().item() for update in ours.updates]
    assert advantages.count(0.0) == 2  # the flat group, alone in its micro-batch, in each of two updates
    assert 0.0 not in [update.batch["advantages"].abs().max().item() for update in stock.updates]
    assert_same_gradients(ours, stock)


def test_under_gdpo_a_small_weight_stays_small():
    """Where reflection alone decides, GRPO's advantages are as large as anywhere; GDPO's keep the weight of 0.05."""
    grpo, gdpo = sum_then_normalize(EARNED), normalize_then_sum(EARNED)
    assert max(map(abs, grpo[G : 2 * G])) > 0.9 * max(map(abs, grpo))
    assert max(map(abs, gdpo[G : 2 * G])) < 0.1 * max(map(abs, gdpo))


ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]*`\w+: [^|]*) \|", DOCS.read_text(), re.M)


@pytest.mark.parametrize(("name", "cell"), ROWS, ids=[name for name, _ in ROWS])
def test_the_yaml_of_the_page_is_a_configuration(tmp_path, name, cell):
    settings = yaml.safe_load("\n".join(re.findall(r"`(\w+: [^`]+)`", cell)))
    args = EmoR3Config(str(tmp_path), use_vllm=False, bf16=False, use_cpu=True, **settings)
    assert {key: getattr(args, key) for key in settings} == settings
    assert all(value is None or isinstance(value, str | int | float) for value in settings.values())


def test_the_page_names_every_loss_and_shows_the_numbers_of_its_example():
    text = DOCS.read_text()
    for words in ("loss_type", "multi_objective_aggregation", "scale_rewards", "importance_sampling_level"):
        assert [word for word in CHOICES[words] if f"`{words}: {word}`" not in text and word not in DEFAULTS] == []
    totals = [sum(w * r for w, r in zip(WEIGHTS, row, strict=True)) for row in EARNED]
    centred = sum_then_normalize(EARNED, deviates=False)
    advantages = {
        "GRPO": sum_then_normalize(EARNED),
        "Dr. GRPO": centred,
        "batch": [value / (stdev(totals) + 1e-4) for value in centred],
        "GDPO": normalize_then_sum(EARNED),
    }
    for name, values in advantages.items():
        (shown,) = re.findall(rf"^\| {name} \| (.*-?[\d.]+) \| (.*) \|$", text.replace("−", "-").replace("*", ""), re.M)
        numbers = [float(number) for cell in shown for number in cell.split(", ")]
        assert numbers == pytest.approx(values[: 2 * G], abs=0.0051), name
