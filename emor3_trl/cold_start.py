"""Cold-Start-Emo (paper, Sec. 3.4): a short SFT on answers alone, which aligns the policy with a data set's labels.

Answer-only examples under the structured prompt would teach that the steps can be left out: in a trial the format rate
fell from 1 to 0, and GRPO never got it back. So the examples ask the *direct* question, which wants an answer without
steps, and `probe_model` measures what became of them.
"""

import logging
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import SFTConfig, SFTTrainer

from emor3_trl.config_checks import LIMITS, check_adapter, check_evaluation, check_numbers
from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.policy import settle_vision_tower
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.metrics import compute_rate
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.groups.checks import check_model_settings
from emor3_trl.masking import mask_secrets
from emor3_trl.model_card.trainer import CardTrainer
from emor3_trl.prompts import answer_text, prompt_text
from emor3_trl.upkeep.finite import FiniteTrainer
from emor3_trl.upkeep.resuming import ResumableTrainer

logger = logging.getLogger(__name__)


@dataclass
class ColdStartConfig(SFTConfig):
    """`trl.SFTConfig` with defaults for Cold-Start-Emo and the fields that it adds.

    The paper gives neither sample count nor hyper-parameters beyond "a small number of samples"; each help text says
    where a default comes from.
    """

    # Defaults of inherited fields
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate (this project's choice)."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the samples (reference: 1)."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule (as in the GRPO stage)."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay (as in the GRPO stage)."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest example in tokens; None, because a cut would part image and tokens."}
    )
    completion_only_loss: bool | None = field(default=True, metadata={"help": "Train on the answer only (paper)."})
    seed: int = field(default=1, metadata={"help": "Seed (reference: 1)."})

    # Cold-Start-Emo
    num_samples: int | None = field(
        default=100,
        metadata={
            "help": "Examples, balanced over the emotions (a trace in the reference: 100); null in a YAML takes the "
            "whole split as it is, the paper's SFT, and measures on eval_split alone."
        },
    )
    freeze_vision_tower: bool = field(
        default=False, metadata={"help": "Do not train the vision tower and its merger (full SFT trains them)."}
    )
    probe_samples: int = field(
        default=64, metadata={"help": "Pictures that format and accuracy are measured on, before and after."}
    )
    probe_max_tokens: int = field(
        default=512, metadata={"help": "Longest completion of these measurements, in tokens."}
    )
    min_format_rate: float = field(
        default=0.9, metadata={"help": "Warn if format under the structured prompt ends below this."}
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields without secrets, as trackers get them."""
        return mask_secrets(super().to_dict())

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("num_samples", "probe_samples", "probe_max_tokens"), "1 or more")
        check_numbers(self, {**LIMITS, **counts})
        super().__post_init__()
        check_evaluation(self)


class ColdStartTrainer(CardTrainer, FiniteTrainer, ResumableTrainer, SFTTrainer):
    """TRL's `SFTTrainer`: a resumed run ends as an uninterrupted one, what is not finite stops it, its card is ours."""


def draw_balanced_sample(dataset: Dataset, n: int | None, seed: int = 1) -> Dataset:
    """Return `n` rows in random order, with as even a share of the emotions as the data set allows.

    No emotion gets two rows more than another that still has rows left.

    Args:
        dataset: rows with `emotion`.
        n: rows to draw, without replacement; None returns the whole data set in its own order, which trainers shuffle.
        seed: which rows, and in which order.

    Raises:
        ValueError: if the data set has fewer than `n` rows.
    """
    return dataset if n is None else dataset.select(_draw_indices(dataset, n, seed))


def select_unused_rows(dataset: Dataset, used: int, n: int, seed: int = 1) -> Dataset:
    """Return up to `n` balanced rows of those that a sample of `draw_balanced_sample` leaves.

    Args:
        dataset: rows with `emotion`.
        used: size of the sample.
        n: rows to return, at most.
        seed: that of the sample.

    Raises:
        ValueError: if the sample leaves no row.
    """
    unused = sorted(set(range(len(dataset))) - set(_draw_indices(dataset, used, seed)))
    if not unused:
        raise ValueError(
            f"num_samples is {used}, so the cold start uses every row, and none is left to measure format on. Lower "
            "--num_samples, or name a split of other pictures with --eval_split."
        )
    return draw_balanced_sample(dataset.select(unused), min(n, len(unused)), seed)


def _draw_indices(dataset: Dataset, n: int, seed: int) -> list[int]:
    if not 0 < n <= len(dataset):
        raise ValueError(
            f"num_samples is {n}, but there are {len(dataset)} rows to draw from. Expected 1 to {len(dataset)}."
        )
    generator = random.Random(seed)
    by_emotion: dict[str, list[int]] = defaultdict(list)
    for index, emotion in enumerate(dataset["emotion"]):
        by_emotion[emotion].append(index)
    queues = [by_emotion[emotion] for emotion in sorted(by_emotion)]
    for queue in queues:
        generator.shuffle(queue)
    generator.shuffle(queues)  # which emotions get the odd rows
    rounds = [queue[depth] for depth in range(max(map(len, queues))) for queue in queues if depth < len(queue)]
    chosen = rounds[:n]
    generator.shuffle(chosen)
    return chosen


def make_examples(dataset: Dataset) -> Dataset:
    r"""Return rows of `image`, `prompt` (the direct question) and `completion` (`\boxed{emotion}`) for `SFTTrainer`.

    Args:
        dataset: rows with `image`, `emotion` and `label_space`.
    """
    spaces = [LabelSpace.of(value) for value in dataset["label_space"]]
    prompts = [[{"role": "user", "content": prompt_text("direct", space.labels)}] for space in spaces]
    completions = [[{"role": "assistant", "content": answer_text(emotion)}] for emotion in dataset["emotion"]]
    examples = dataset.select_columns(["image"])
    return examples.add_column("prompt", prompts).add_column("completion", completions)


def build_cold_start_trainer(
    model: str | PreTrainedModel,
    args: ColdStartConfig,
    train_dataset: Dataset,
    processing_class: ProcessorMixin | None = None,
    **kwargs: Any,
) -> ColdStartTrainer:
    """Return a trainer on `args.num_samples` balanced, answer-only examples.

    Args:
        model: a checkpoint or a loaded vision-language model.
        args: the configuration.
        train_dataset: rows with `image`, `emotion` and `label_space`, from which the examples are drawn.
        processing_class: the model's processor.
        kwargs: further arguments of `SFTTrainer`, such as `peft_config` and `callbacks`.

    Raises:
        ValueError: if the data set has fewer rows than `args.num_samples`, or an adapter cannot be right.
    """
    check_adapter(kwargs.get("peft_config"), args, model)
    check_model_settings(model, args, kwargs.get("peft_config"))
    examples = make_examples(draw_balanced_sample(train_dataset, args.num_samples, args.seed))
    trainer = ColdStartTrainer(
        model=model, args=args, train_dataset=examples, processing_class=processing_class, **kwargs
    )
    trainer.labels = LabelSpace.of(train_dataset[0]["label_space"]).labels
    trainer.question = prompt_text("direct", trainer.labels)
    untrained = settle_vision_tower(trainer.model, args.freeze_vision_tower)
    if untrained and trainer.accelerator.is_main_process:
        logger.warning(untrained)
    return trainer


def probe_model(
    model: PreTrainedModel, processor: ProcessorMixin, dataset: Dataset, max_tokens: int = 512
) -> dict[str, float]:
    """Measure greedily what a cold start changes: the form of the steps, and accuracy with and without them.

    Args:
        model: the model, on any device.
        processor: its processor.
        dataset: rows to measure on.
        max_tokens: longest completion.

    Returns:
        `format_rate` and `accuracy_set` under the structured prompt, `accuracy_direct` under the direct one.
    """
    engine = TransformersEngine(model, processor)
    options = PredictionOptions(max_tokens=max_tokens, reflect=False)
    with_steps = predict_emotions(engine, dataset, "structured prompt", options)
    direct = predict_emotions(engine, dataset, "direct prompt", replace(options, prompt_style="direct"))
    return {
        "format_rate": compute_rate([prediction.well_formed for prediction in with_steps]),
        "accuracy_set": compute_rate([prediction.correct for prediction in with_steps]),
        "accuracy_direct": compute_rate([prediction.correct for prediction in direct]),
    }


def probe_checkpoint(
    path: str, options: dict[str, Any], processor: ProcessorMixin, dataset: Dataset | None, args: ColdStartConfig
) -> dict[str, float]:
    """Load a checkpoint and run `probe_model` on it, on the main process.

    Args:
        path: the checkpoint.
        options: what `from_pretrained` gets.
        processor: its processor.
        dataset: rows to measure on; None measures nothing.
        args: the configuration.

    Returns:
        What `probe_model` does. Nothing without rows, nothing on other processes, nor under ZeRO-3, which would spread
        the model over all of them.
    """
    if dataset is None or is_deepspeed_zero3_enabled() or not PartialState().is_main_process:
        return {}
    if args.bf16:
        options = {**options, "dtype": torch.bfloat16}
    model = AutoModelForImageTextToText.from_pretrained(path, **options, device_map={"": args.device})
    return probe_model(model, processor, dataset, args.probe_max_tokens)


def describe_format_loss(before: dict[str, float], after: dict[str, float], min_format_rate: float = 0.9) -> str | None:
    """Return what to tell the user if the steps were untaught, else None.

    Args:
        before, after: what `probe_checkpoint` returned.
        min_format_rate: the lowest format rate from which GRPO can go on.
    """
    rate_after = after.get("format_rate")
    if rate_after is None or rate_after >= min_format_rate:
        return None
    start = before["format_rate"]
    if start < min_format_rate:
        return (
            f"Only {rate_after:.0%} of the completions under the structured prompt are well formed after the cold "
            f"start; it was {start:.0%} before it, so the model does not know the steps well. GRPO can teach them if "
            "sampled completions have them now and then."
        )
    return (
        f"The cold start untaught the steps: {rate_after:.0%} of the completions under the structured prompt are well "
        f"formed, it was {start:.0%} (wanted: {min_format_rate:.0%}). GRPO rarely gets them back. Lower "
        "--learning_rate or --num_samples, or train LoRA with --use_peft true --lora_target_modules all-linear."
    )


def describe_cold_start(
    args: ColdStartConfig, model: str, data: str, validation: str | None, samples: int, processes: int = 1
) -> str:
    """Return what a configuration would run, as text for a terminal.

    Args:
        args: the configuration.
        model, data, validation: what to call the model and the splits; nothing is measured on None.
        samples: examples that are trained on.
        processes: how many train together.
    """
    batch = processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = args.max_steps if args.max_steps > 0 else int(-(-samples // batch) * args.num_train_epochs)
    kind = "all of them" if args.num_samples is None else "balanced over the emotions"
    measured = f"format and accuracy on {args.probe_samples} pictures of {validation}, before and after"
    lines = {
        "model": model,
        "data": f"{samples} answer-only examples of {data}, {kind}",
        "steps": f"{steps} of {batch} examples ({processes} process(es)), learning rate {args.learning_rate}",
        "measures": measured if validation else "nothing: every row is trained on, and there is no eval_split",
        "writes": f"{args.output_dir}/: checkpoint, processor, config.yaml, environment.json, metrics.json",
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())
