"""`EmoR3Trainer`: TRL's `GRPOTrainer` with reflection, exact rollouts and a check that they are on-policy.

What differs from `GRPOTrainer`:

- rollouts come from `rollout.ColocatedEngine` (exact prompts, fresh caches, awake until reflection is done);
- `_generate` asks the reflection questions while the engine is awake, and `_calculate_rewards` hands the answers to
  every reward as columns;
- `_generate_and_score_completions` decodes and processes each picture once (`distinct_images`), takes rows without one
  beside rows with one, and ends with the parity check (`parity.ParityCanary`);
- `_get_per_token_logps_and_entropies` computes a group's prompt and picture once (`shared_prefix`), and
  `_prepare_inputs` keeps siblings together, so that they can share it.

A prompt that leaves no room for its completion is refused before a model loads (`context_length`).
"""

import inspect
import json
import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from emor3_trl.config import EmoR3Config
from emor3_trl.context_length import check_context
from emor3_trl.diagnostics import diagnose
from emor3_trl.engines.colocated import colocated_engine
from emor3_trl.engines.opening import engine_options
from emor3_trl.engines.parity import ParityCanary
from emor3_trl.engines.policy import freeze_vision_tower, suppress_image_tokens
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.groups import attention, batching, packing
from emor3_trl.groups.images import ImageCounts, leave_encoded, pixels_of_rows, processed_once, share_images
from emor3_trl.launch import check_reference, weights_sharded, world_size
from emor3_trl.reflection import Reflection, Reflector
from emor3_trl.rewards import completion_text, reward_functions
from emor3_trl.thinking import parse

logger = logging.getLogger(__name__)


class EmoR3Trainer(GRPOTrainer):
    """GRPO with Structured Emotional Thinking and the Reflective Emotional Reward (paper, Sec. 3, Algorithm 1).

    Args:
        model: the policy, a checkpoint path or a loaded vision-language model.
        args: the configuration.
        train_dataset: rows with `prompt`, `image`, `emotion` and `label_space` (see `emor3_trl.data`).
        reward_funcs: reward functions; by default those of `args.reward_variant`, weighted by lambda1 and lambda2.
        processing_class: the model's processor; it is set to pad on the left.
        kwargs: further arguments of `GRPOTrainer`.

    Raises:
        ValueError: if the data set lacks a column that the rewards need, a prompt and its completion do not fit the
            context, or the weights are sharded and reflection has no vLLM.
    """

    _tag_names = ["trl", "grpo", "emo-r3"]
    _buffered_inputs: list[dict[str, Any]] | None
    log_multimodal: bool

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: EmoR3Config,
        train_dataset: Dataset | None = None,
        reward_funcs: Callable | list[Callable] | None = None,
        processing_class: ProcessorMixin | None = None,
        **kwargs: Any,
    ) -> None:
        # Whether a reward uses the reflection's answers: not with lambda1=0 (paper, Table 3, SET only)
        self.reflects = (args.lambda1 > 0 and args.reward_variant != "plain") or _names_answers(reward_funcs)
        _check_columns(train_dataset, self.reflects)
        if self.reflects and not args.use_vllm and world_size() > 1 and weights_sharded():
            # Each rank asks as many questions as it has well-formed completions, but forwards of all must match
            raise ValueError(
                "use_vllm is false, and this launch shards the weights (ZeRO-3 or FSDP): reflection would wait for "
                "ever. Set use_vllm: true, or launch with recipes/accelerate/ddp.yaml or zero2.yaml."
            )
        check_reference(args.beta, kwargs.get("peft_config") is not None)
        if reward_funcs is None:
            reward_funcs, weights = reward_functions(args.reward_variant, args.lambda1, args.lambda2)
            if args.reward_weights not in (None, weights):  # an earlier trainer may have set them
                raise ValueError(
                    f"reward_weights is {args.reward_weights}, but the rewards of reward_variant "
                    f"'{args.reward_variant}' are weighted by lambda1 and lambda2. Set those, or pass reward_funcs."
                )
            args.reward_weights = weights
        # TRL builds multimodal token types for left-padded prompts only.
        for padded in (processing_class, getattr(processing_class, "tokenizer", None)):
            if padded is not None and hasattr(padded, "padding_side"):
                padded.padding_side = "left"
        rows = {"train": train_dataset, "eval": kwargs.get("eval_dataset")}
        check_context(rows, processing_class, args, model)
        assert not isinstance(args.vllm_engine_options, str)  # JSON was read when the configuration was made
        options = engine_options(_compute_dtype(model, args), args.vllm_engine_options)
        if isinstance(kwargs.get("eval_dataset"), Dataset | dict):
            kwargs["eval_dataset"] = leave_encoded(kwargs["eval_dataset"])
        with colocated_engine(options) if args.use_vllm else nullcontext():
            super().__init__(
                model=model,
                args=args,
                train_dataset=leave_encoded(train_dataset),
                reward_funcs=reward_funcs,
                processing_class=processing_class,
                **kwargs,
            )
        if processing_class is None:  # TRL has loaded it
            check_context(rows, self.processing_class, args, self.model)
        for policy in self._policies():
            suppress_image_tokens(policy, self.processing_class)
        if args.freeze_vision_tower:
            freeze_vision_tower(self.model)
        self.shares_prefix = args.shared_prefix and self._install_shared_prefix()
        self._rows: list[dict] = []
        self._reflections: list[Reflection] = []
        self._unscored = 0.0  # share of sampled tokens whose log-probability vLLM does not know
        self.parity = ParityCanary.for_dtype(options["dtype"], args.parity_warn, args.parity_stop, args.parity_patience)

    def _policies(self) -> list[Any]:
        """Return the policy and, where there is one, the reference model, which DeepSpeed has wrapped by now."""
        return [self.model] if self.ref_model is None else [self.model, self.accelerator.unwrap_model(self.ref_model)]

    def _install_shared_prefix(self) -> bool:
        """Let policy and reference take packed rows, and say what keeps a group from sharing its whole prefix."""
        reason = attention.why_not(self.model)
        says = logger.warning if self.accelerator.is_main_process else logger.debug
        if reason:
            says("The groups' prompts are not shared (shared_prefix): %s.", reason)
            return False
        for policy in self._policies():
            attention.install(policy)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._rope_index = getattr(base.model, "get_rope_index", None)
        self._layers = base.config.get_text_config().num_hidden_layers
        split = batching.explain_split(
            self.num_generations, self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        )
        for text in (split, attention.explain_dropout(self.model)):
            if text:
                says(text)
        return True

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Generate when it is time, and return the next micro-batch; TRL's method, but siblings stay together."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            apart = isinstance(batch.get("pixel_values"), list)
            if apart:
                batch["image_grid_thw"] = list(batch["image_grid_thw"].split(batch["num_images"]))
            else:
                batch = split_pixel_values_by_grid(batch)
            rows = len(batch["prompt_ids"])
            first = self.accelerator.process_index * rows
            order = batching.permute_groups(rows, first, self.num_generations)
            batch = {name: _take(values, order) for name, values in batch.items()}
            parts = split_tensor_dict(batch, self.args.steps_per_generation)
            self._buffered_inputs = [
                {**part, "image_grid_thw": torch.cat(part["image_grid_thw"])}
                if apart
                else unsplit_pixel_values_by_grid(part)
                for part in parts
            ]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities and entropies, each of shape (B, T), from one packed row per chunk."""
        options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        if not self.shares_prefix or compute_aux_loss:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **options, **fields
            )
        mode = "train" if self.model.training else "eval"
        if batch_size is not None and not torch.is_grad_enabled():
            # Without a backward, a group needs little more memory than one completion: it is not split.
            group = self.num_generations if mode == "train" else self.num_generations_eval
            batch_size = max(batch_size // group, 1) * group
        log_probs, entropies = [], []
        fields["pixel_values"] = self._pixels_apart(fields)
        for row in packing.packed_rows(
            input_ids,
            attention_mask,
            logits_to_keep,
            self._rope_index,
            batch_size=batch_size,
            image_token_id=getattr(self.processing_class, "image_token_id", -1),
            **{name: fields.get(name) for name in ("pixel_values", "image_grid_thw", "num_images")},
        ):
            with self.accelerator.autocast():
                output = model(**row.inputs(), fused_lm_head=True)
            row.layout.check_used(self._layers)
            log_probs.append(row.unpack(output.log_probs))
            if compute_entropy:
                entropies.append(row.unpack(output.entropy))
            self._metrics[mode]["shared_prefix/token_share"].append(row.input_ids.shape[1] / row.ordinary_tokens)
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    @property
    def _keeps_pixels_apart(self) -> bool:
        """Whether the patches of a picture stand once in memory: not where a forward takes rows that are not packed."""
        return self.shares_prefix and self.use_vllm and not self.tools and not self.args.use_liger_kernel

    def _pixels_apart(self, fields: dict[str, Any]) -> Any:
        """Return the patches of each row's picture where they are kept apart, else `pixel_values` as they are."""
        pixels, grids = fields.get("pixel_values"), fields.get("image_grid_thw")
        if not self._keeps_pixels_apart or grids is None or not isinstance(pixels, torch.Tensor):
            return pixels
        return pixels_of_rows(pixels, grids, [row.get("image") for row in self._rows])

    def _tokenize_prompts(self, prompts: list) -> tuple:
        """Tokenise each distinct prompt once; vLLM needs token ids and pictures, and none of the other fields."""
        if not self.use_vllm or self.tools:
            return super()._tokenize_prompts(prompts)
        keys = [json.dumps(prompt, default=id) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        ids, images, _ = super()._tokenize_prompts(list(distinct.values()))
        where = {key: index for index, key in enumerate(distinct)}
        repeated = [where[key] for key in keys]
        return [ids[i] for i in repeated], images and [images[i] for i in repeated], {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple:
        """Generate; a completion without any token, from which nothing could be learned, becomes an end of turn."""
        completion_ids, log_probs = super()._generate_single_turn(*args, **kwargs)
        end = self._tokenizer.eos_token_id
        for row, ids in enumerate(completion_ids):
            if not len(ids):
                completion_ids[row] = [end]
                if log_probs is not None:
                    log_probs[row] = [None]
        return completion_ids, log_probs

    def _generate(self, prompts: list) -> tuple:
        """Generate, reflect while the engine is awake, and let it sleep before the forwards need its memory."""
        *output, images, tool_images = super()._generate(prompts)
        # Processors take an empty list for a row without a picture, not None
        output += [images and [row or [] for row in images], tool_images]
        texts = [completion_text(completion) for completion in output[3]]
        scores = [score is None for row in output[4] or () for score in row]
        self._unscored = sum(scores) / max(len(scores), 1)
        self._reflections = self._reflect(self._rows, texts) if self.reflects else [Reflection()] * len(texts)
        if self.use_vllm:
            self.vllm_generation.sleep()
        return tuple(output)

    def _calculate_rewards(
        self, inputs: list[dict], prompts: list, completions: list, completion_ids_list: list
    ) -> Any:
        texts = [completion_text(completion) for completion in completions]
        inputs = [
            {
                **row,
                "consistency_answer": reflection.consistency_answer,
                "coherence_answer": reflection.coherence_answer,
            }
            for row, reflection in zip(inputs, self._reflections, strict=True)
        ]
        self._log_reflections(texts, self._reflections)
        self._log_diagnostics(texts, inputs)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _reflect(self, inputs: list[dict], texts: list[str]) -> list[Reflection]:
        images = [row.get("image") for row in inputs]
        spaces = [row["label_space"] for row in inputs]
        if self.use_vllm:
            ranks = getattr(self.vllm_generation, "tp_group", None)  # with tensor parallelism
            reflector = Reflector(VLLMEngine(self.vllm_generation.llm, self.processing_class, ranks))
            reflections = reflector.reflect(images, texts, spaces)
        else:
            with unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model:
                reflector = Reflector(TransformersEngine(model, self.processing_class))
                reflections = reflector.reflect(images, texts, spaces)
        for name, value in vars(reflector.last_cost).items():
            self._log_metric(f"reflection/{name}", float(value))
        return reflections

    def _log_reflections(self, texts: list[str], reflections: list[Reflection]) -> None:
        steps = [parse(text) for text in texts]
        for column in ("trigger", "feeling", "conclusion", "answer"):
            self._log_completion_extra(column, [getattr(step, column, None) for step in steps])
        for column in ("consistency_answer", "coherence_answer"):
            self._log_completion_extra(column, [getattr(reflection, column) for reflection in reflections])

    def _log_diagnostics(self, texts: list[str], inputs: list[dict]) -> None:
        generations = self.num_generations if self.model.training else self.num_generations_eval
        if len(texts) % generations:  # this rank holds a part of a group only
            return
        names = ("emotion", "label_space", "consistency_answer", "coherence_answer")
        columns = {name: [row[name] for row in inputs] for name in names}
        reward = reward_functions(self.args.reward_variant, self.args.lambda1, self.args.lambda2)
        for name, value in diagnose(texts, columns, generations, reward).items():
            self._log_metric(name, value)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        counts = ImageCounts()
        inputs = share_images(inputs, counts)
        if any("image" in row and row["image"] is None for row in inputs):
            # TRL expects a picture in every row's `image`; its other column may be empty
            inputs = [{**row, "images": [] if row["image"] is None else [row["image"]]} for row in inputs]
        self._rows = inputs
        log_multimodal, self.log_multimodal = self.log_multimodal, False
        try:
            with processed_once(self.processing_class, counts, repeated=not self._keeps_pixels_apart):
                output = super()._generate_and_score_completions(inputs)
        finally:
            self.log_multimodal = log_multimodal
        if log_multimodal and "image" in inputs[0]:
            # TRL gathers pictures from the processes that have some, and waits for the others forever
            pictures = [[] if row["image"] is None else [row["image"]] for row in inputs]
            self._logs["images"].extend(gather_object(pictures))
        if "pixel_values" in output:
            output["pixel_values"] = self._pixels_apart(output)
        logged = self._logs["prompt"]
        plain = [_plain_content(prompt) for prompt in logged]
        logged.clear()
        logged.extend(plain)
        mode = "train" if self.model.training else "eval"
        for name, value in vars(counts).items():
            self._metrics[mode][f"images/{name}"].append(value)
        gaps = self._metrics[mode].get("sampling/sampling_logp_difference/mean")
        if gaps:
            # TRL leaves out what is not a number; an engine that computes nothing else has no gap
            self.parity.check(math.nan if self._unscored > 0.5 else gaps[-1], step=self.state.global_step)
        return output


def _take(values: Any, order: torch.Tensor) -> Any:
    """Return the rows of a tensor or list in another order; what has no rows is returned as it is."""
    if isinstance(values, torch.Tensor):
        return values[order.to(values.device)] if values.ndim else values
    return values if values is None else [values[i] for i in order.tolist()]


def _plain_content(conversation: Any) -> Any:
    """Return a conversation whose contents are strings: W&B's tables refuse a list that mixes images and text."""
    if isinstance(conversation, str):
        return conversation
    return [
        {
            **message,
            "content": message["content"]
            if isinstance(message["content"], str)
            else "".join(part.get("text") or "" for part in message["content"]),
        }
        for message in conversation
    ]


def _compute_dtype(model: str | PreTrainedModel, args: EmoR3Config) -> str:
    """Return the type that the trainer's forward computes in, by its name in torch."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    dtype = (args.model_init_kwargs or {}).get("dtype", "float32") if isinstance(model, str) else model.dtype
    return str(dtype).removeprefix("torch.")


def _names_answers(reward_funcs: Any) -> bool:
    """Return whether a reward function has an answer of the reflection among its parameters."""
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    named = {name for each in functions if callable(each) for name in inspect.signature(each).parameters}
    return bool(named & {"consistency_answer", "coherence_answer"})


def _check_columns(dataset: Any, reflects: bool) -> None:
    columns = getattr(dataset, "column_names", None)
    if columns is not None:
        if "images" in columns:
            raise ValueError(
                "The training data has a column 'images'. Reflection asks about one picture: give each row one, in the "
                "column 'image'."
            )
        needed = ["prompt", *(["image"] if reflects else []), "emotion", "label_space"]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(
                f"The training data has the columns {sorted(columns)}; {', '.join(missing)} missing. "
                "Load it with emor3_trl.data.load_split, or add the columns."
            )
