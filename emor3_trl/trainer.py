"""`EmoR3Trainer`: GRPO with Structured Emotional Thinking and the Reflective Emotional Reward (paper, Algorithm 1).

It stands on `GroupTrainer`, which makes the step cheap. What differs from it:

- `_generate` asks the policy both reflection questions while the engine is awake, and writes the answers into the rows;
- `_calculate_rewards` hands these answers to every reward as columns, and logs the diagnostics of the rollout;
- `log` judges the alarms on what it logs (`diagnostics.trainer`);
- `_judge_gap` checks that rollouts are on-policy before the weights move (`engines.parity`);
- `create_model_card` and `_save_checkpoint` write a card of the run's own facts (`model_card.trainer`).

A prompt that leaves no room for its completion is refused before a model loads (`context_length`).
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from trl import GRPOConfig
from trl.models import unwrap_model_for_generation
from trl.rewards import get_soft_overlong_punishment

from emor3_trl import reference_rewards, rewards
from emor3_trl.config import EmoR3Config
from emor3_trl.config_checks import check_adapter
from emor3_trl.config_switches import check_readers, check_weighed_labels
from emor3_trl.context_length import check_context
from emor3_trl.diagnostics.probes import ask_probes
from emor3_trl.diagnostics.trainer import DiagnosedTrainer
from emor3_trl.engines.engine import Engine
from emor3_trl.engines.parity import ParityCanary
from emor3_trl.engines.policy import settle_vision_tower, suppress_image_tokens
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.groups.batching import count_batches
from emor3_trl.groups.trainer import GroupTrainer
from emor3_trl.launch import check_reference, weights_sharded, world_size
from emor3_trl.model_card.trainer import CardTrainer
from emor3_trl.named_rewards import list_reward_columns, use_named_rewards
from emor3_trl.reflection import Reflection, ReflectionOptions, Reflector
from emor3_trl.reward_columns import REFLECTED_COLUMNS, completion_text, list_reflected_columns
from emor3_trl.rewards import GradedAccuracy, accuracy_reward, gate_reflection, reward_functions
from emor3_trl.thinking import parse
from emor3_trl.truth_checks import check_truth_columns

logger = logging.getLogger(__name__)

OURS = (rewards.__name__, reference_rewards.__name__)
NO_COLUMNS = {"prompt", "completion", "completion_ids"}  # of a row, to TRL's rewards


class EmoR3Trainer(DiagnosedTrainer, CardTrainer, GroupTrainer):
    """GRPO with Structured Emotional Thinking and the Reflective Emotional Reward (paper, Sec. 3, Algorithm 1).

    Args:
        model: the policy, a checkpoint path or a loaded vision-language model.
        reward_funcs: reward functions; by default those of `args.rewards`, or of `args.reward_variant`, weighted by
            lambda1 and lambda2.
        args: the configuration.
        train_dataset: rows with `prompt`, `image`, `emotion` and `label_space` (see `emor3_trl.data`). Rows need the
            last three only where reflection or a reward of this project reads them.
        eval_dataset: the same, or a dict of several sets.
        processing_class: the model's processor; it is set to pad on the left.
        kwargs: further arguments of `GRPOTrainer`.

    Raises:
        ValueError: if a data set lacks a column that the rewards need, a prompt and its completion do not fit the
            context, or the weights are sharded and reflection has no vLLM.
    """

    _tag_names = ["trl", "grpo", "emo-r3"]

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Callable | list[Callable] | None = None,
        args: EmoR3Config | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(reward_funcs, GRPOConfig):
            raise ValueError("reward_funcs is a configuration. Name it, args=…: arguments stand in TRL's order.")
        name = model if isinstance(model, str) else model.config._name_or_path
        args = EmoR3Config(f"{name.rstrip('/').split('/')[-1]}-EMO-R3") if args is None else args
        if reward_funcs is not None and args.overlong_buffer:
            raise ValueError(
                f"overlong_buffer is {args.overlong_buffer}, and reward_funcs is given. Pass one: leave it 0, and add "
                "trl.rewards.get_soft_overlong_punishment to reward_funcs."
            )
        if args.rewards is not None:
            reward_funcs = use_named_rewards(args, reward_funcs)
        # Not with lambda1=0 (paper, Table 3, SET only), unless a reward of the user's asks for an answer
        self.reflects = args.rewards is None and args.lambda1 > 0 and args.reward_variant != "plain"
        if reward_funcs is not None:
            self.reflects |= bool(_parameters(reward_funcs).keys() & set(REFLECTED_COLUMNS))
        elif kwargs.get("environment_factory") is None:
            reward_funcs = _use_variant(args)
        else:  # the environment owns the reward, and nothing is added to it
            self.reflects = False
        check_readers(args, reward_funcs)
        if self.reflects and not args.use_vllm and world_size() > 1 and weights_sharded():
            # Each rank asks as many questions as it has well-formed completions, but forwards of all must match
            raise ValueError(
                "use_vllm is false, and this launch shards the weights (ZeRO-3 or FSDP): reflection would wait for "
                "ever. Set use_vllm: true, or launch with recipes/accelerate/ddp.yaml or zero2.yaml."
            )
        check_reference(args.beta, kwargs.get("peft_config") is not None)
        check_adapter(kwargs.get("peft_config"), args, model)
        if isinstance(train_dataset, Dataset):
            count_batches(vars(args), len(train_dataset), world_size())  # refuses rows that fill no rollout
        self._needed_columns = _needed_columns(self.reflects, reward_funcs, args.gated_reflection != "none")
        if kwargs.get("rollout_func") is None:  # it adds columns of its own
            self._needed_columns += [name for name in list_reward_columns(args) if name not in self._needed_columns]
        datasets = {"train": train_dataset, "eval": eval_dataset}
        _check_datasets(datasets, self._needed_columns)
        check_truth_columns(args, datasets, reward_funcs)
        _check_questions(datasets, processing_class, args, model)
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, processing_class, **kwargs)
        self.learn_question(train_dataset)  # for its card
        if processing_class is None:  # TRL has loaded it
            _check_questions(datasets, self.processing_class, args, self.model)
        for policy in self._policies():
            suppress_image_tokens(policy, self.processing_class)
        untrained = settle_vision_tower(self.model, args.freeze_vision_tower)
        if untrained and self.accelerator.is_main_process:
            logger.warning(untrained)
        if args.use_vllm:
            self.vllm_generation.stays_awake = True  # for reflection
        dtype = self.engine_options.get("dtype", "float32")
        self.parity = ParityCanary.for_dtype(dtype, args.parity_warn, args.parity_stop, args.parity_patience)

    @contextmanager
    def open_engine(self) -> Iterator[Engine]:
        """Give the policy with its present weights as an engine; all processes open it together.

        vLLM sleeps again afterwards, where it sleeps between rollouts.
        """
        if self.use_vllm:
            if self.state.global_step != self._last_loaded_step:
                self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
            self.vllm_generation.wake_up()
            ranks = getattr(self.vllm_generation, "tp_group", None)  # with tensor parallelism
            try:
                yield VLLMEngine(self.vllm_generation.llm, self.processing_class, ranks)
            finally:
                self.vllm_generation.sleep()
            return
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            generation_kwargs=self.generation_kwargs,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            yield TransformersEngine(model, self.processing_class)

    def _generate(self, prompts: list) -> tuple:
        """Generate, reflect while the engine is awake, and let it sleep before the forwards need its memory."""
        output = super()._generate(prompts)
        self._log_metric("rollout/completions", float(len(prompts) * self.accelerator.num_processes))
        texts = [completion_text(completion) for completion in output[3]]
        reflections = self._reflect(texts) if self.reflects else [Reflection()] * len(texts)
        for row, reflection in zip(self.rollout.rows, reflections, strict=True):
            row.update({name: getattr(reflection, name, None) for name in list_reflected_columns(self.args)})
        if self.use_vllm:
            self.vllm_generation.sleep()
        return output

    def _reflect(self, texts: list[str]) -> list[Reflection]:
        rows, start = self.rollout.rows, perf_counter()
        images, spaces = [row.get("image") for row in rows], [row["label_space"] for row in rows]
        with self.open_engine() as engine:
            reflector = Reflector(engine, ReflectionOptions.of(self.args), gather_object)
            emotions = [row.get("emotion") for row in rows]
            reflections = reflector.reflect(images, texts, spaces, emotions)
            asked = (engine, images, texts, spaces, reflections, emotions, self.args.masked_coherence)
            probes = ask_probes(*asked) if self._is_probed() else {}
        costs = {f"reflection/{name}": float(value) for name, value in vars(reflector.last_cost).items()}
        if self.args.contrastive_consistency:
            costs["reflection/contrast_requests"] = float(reflector.contrast_requests)
        exact = [reflection.is_exact for reflection in reflections if reflection.is_exact is not None]
        if exact:
            self._log_metric("diagnostics/exact_probabilities", sum(exact) / len(exact))
        for name, value in {**costs, **probes}.items():
            if name != "reflection/seconds":  # time/reflection counts the images as well
                self._log_metric(name, value)
        self._log_metric("time/reflection", perf_counter() - start - probes.get("diagnostics/probe_seconds", 0.0))
        return reflections

    def _calculate_rewards(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list
    ) -> Any:
        """Reward the completions, whose rows hold the reflection's answers by now, and log what a curve hides."""
        if self.args.gated_reflection != "none":
            for row, gate in zip(inputs, self._gate_reflection(inputs, completions), strict=True):
                row["reflection_gate"] = gate
        # (completions of all processes, reward functions)
        earned = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        texts = [completion_text(completion) for completion in completions]
        thoughts = [parse(text) for text in texts]
        for column in ("trigger", "feeling", "conclusion", "answer"):
            self._log_completion_extra(column, [getattr(thought, column, None) for thought in thoughts])
        # id: the report follows an image through the steps
        for column in ("id", "emotion", *list_reflected_columns(self.args)):
            if column in inputs[0]:
                self._log_completion_extra(column, [row[column] for row in inputs])
        for name, value in self._diagnose(inputs, texts, thoughts, completion_ids_list, earned.cpu().numpy()).items():
            self._log_metric(name, value)
        return earned

    def _gate_reflection(self, inputs: list[dict], completions: list) -> list[float]:
        """Return the gate of each completion of this process, whose group may reach into other processes."""
        graded = [function for function in self.reward_funcs if isinstance(function, GradedAccuracy)]
        columns = {name: [row[name] for row in inputs] for name in inputs[0].keys() - NO_COLUMNS}
        accuracies = (graded[0] if graded else accuracy_reward)(completions=completions, **columns)
        # (group, accuracy) of all processes
        told = gather_object([(group, a or 0.0) for group, a in zip(self.rollout.groups, accuracies, strict=True)])
        gates = gate_reflection([a for _, a in told], [group for group, _ in told], self.args.gated_reflection)
        start = self.accelerator.process_index * len(inputs)
        return gates[start : start + len(inputs)]

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        _check_columns("A row of the data", inputs[0], self._needed_columns)  # of a stream, or given to `evaluate`
        return super()._generate_and_score_completions(inputs)

    def _judge_gap(self, gap: float) -> None:
        self.parity.check(gap, step=self.state.global_step)


def _use_variant(args: EmoR3Config) -> list[Callable]:
    """Return the rewards of `args.reward_variant`, and set their weights."""
    functions, weights = reward_functions(
        args.reward_variant, args.lambda1, args.lambda2, args.accuracy_truth, args.polarity_credit
    )
    if args.overlong_buffer:
        functions.append(get_soft_overlong_punishment(args.max_completion_length, args.overlong_buffer))
        weights.append(1.0)
    if args.reward_weights not in (None, weights):  # an earlier trainer may have set them
        raise ValueError(
            f"reward_weights is {args.reward_weights}, but the rewards of reward_variant '{args.reward_variant}' are "
            "weighted by lambda1 and lambda2. Set those, name rewards, or pass reward_funcs."
        )
    args.reward_weights = weights
    return functions


def _parameters(reward_funcs: Any) -> dict[str, bool]:
    """Return the parameters of all reward functions by name, and whether one of them cannot do without it."""
    needed: dict[str, bool] = {}
    for function in reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]:
        for name, parameter in inspect.signature(function).parameters.items() if callable(function) else ():
            ours = getattr(function, "__module__", "") in OURS  # they raise where a column is missing
            needed[name] = needed.get(name, False) or ours or parameter.default is parameter.empty
    return needed


def _needed_columns(reflects: bool, reward_funcs: Any, is_gated: bool) -> list[str]:
    """Return the columns that reflection, its gate and the rewards cannot do without."""
    parameters = _parameters(reward_funcs)
    needed = {"image": reflects, "emotion": parameters.get("emotion"), "label_space": parameters.get("label_space")}
    needed |= {"emotion": True, "label_space": True} if is_gated else {}
    needed["label_space"] = reflects or needed["label_space"]
    return [column for column, is_needed in needed.items() if is_needed]


def _check_datasets(datasets: Mapping[str, Any], needed: Sequence[str]) -> None:
    for part, dataset in datasets.items():
        _check_columns(f"{part}_dataset", dataset, needed)


def _check_questions(datasets: Mapping[str, Any], processor: Any, args: EmoR3Config, model: Any) -> None:
    check_context(datasets, processor, args, model)
    check_weighed_labels(datasets, processor, args)


def _check_columns(name: str, dataset: Any, needed: Sequence[str]) -> None:
    """Check that a data set, a dict of them, or one row has the columns that reflection and the rewards read.

    Raises:
        ValueError: naming the columns that are missing.
    """
    columns = getattr(dataset, "column_names", None)
    if isinstance(dataset, Mapping) and all(hasattr(part, "column_names") for part in dataset.values()):
        for part, rows in dataset.items():
            _check_columns(f"{name}['{part}']", rows, needed)
        return
    if isinstance(dataset, Mapping):
        columns = list(dataset)
    missing = [column for column in needed if column not in (columns or needed)]
    if "image" in missing and "images" in (columns or ()):
        raise ValueError(
            f"{name} has a column 'images'. Reflection asks about one image: give each row one, in the column 'image'."
        )
    if missing:
        raise ValueError(
            f"{name} has the columns {sorted(columns or ())}; {', '.join(missing)} missing. "
            "Load it with emor3_trl.data.load_split, or add the columns."
        )
