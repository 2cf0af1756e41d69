"""`GroupTrainer`: TRL's `GRPOTrainer` with a step that computes each group once, and the same numbers.

It knows nothing of emotions. What differs from `GRPOTrainer`, by the hook that it overrides:

- `_generate_and_score_completions` decodes and processes each image once (`images`), and takes rows without an image
  beside rows with one;
- `_tokenize_prompts` tokenises the prompt of a group once;
- `_prepare_inputs` keeps the completions of a group together when it shuffles them into micro-batches (`batching`),
  and fills a rollout with groups that teach something, where it is asked to (`dynamic_sampling`);
- `_get_per_token_logps_and_entropies` computes the prompt and the image of a group once (`scoring`, `packing`,
  `attention`);
- `_compute_loss` takes old log-probabilities from the training forward (`one_pass`), and leaves out groups without an
  advantage (`skipping`), where the numbers stay the same;
- `_generate_single_turn` generates without what the checkpoint's `generation_config.json` adds, and turns a completion
  without any token into an end of turn;
- a resumed run ends as an uninterrupted one (`resuming`), and what is not finite stops it (`finite`);
- vLLM, in the same process or on a server, gets exact prompts and fresh caches (`engines.colocated`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from trl import GRPOConfig
from trl.trainer.utils import split_tensor_dict

from emor3_trl.engines.placement import use_engine
from emor3_trl.engines.policy import suppress_image_tokens
from emor3_trl.engines.server_checks import check_server
from emor3_trl.engines.transformers import plain_generation
from emor3_trl.groups.batching import number_groups, permute_groups
from emor3_trl.groups.checks import check_choices, check_model_settings, choose_engine_options
from emor3_trl.groups.dynamic_sampling import DynamicSampler, check_dynamic_sampling
from emor3_trl.groups.images import (
    ImageCounts,
    leave_encoded,
    list_images,
    process_images_once,
    share_images,
)
from emor3_trl.groups.one_pass import OnePassTrainer
from emor3_trl.groups.reference import reference_loaded_in
from emor3_trl.groups.rows import join_rows, take_rows
from emor3_trl.groups.skipping import SkippingTrainer
from emor3_trl.groups.vision_tower import compute_tower_together, needs_gradients
from emor3_trl.launch import weights_sharded
from emor3_trl.upkeep.printing import PrintingTrainer
from emor3_trl.upkeep.resuming import ResumableTrainer
from emor3_trl.upkeep.timing import TimedTrainer
from emor3_trl.upkeep.tracking import TrackingTrainer


@dataclass
class Rollout:
    """What a step knows of its rollout, from the moment when its images are decoded.

    Args:
        rows: one per completion of this process; rows of a group share their image objects.
        groups: the number of each row's group, counted over all processes. Who needs siblings asks here.
        rewards: what each function gives, for the completions of all processes, shape (completions, functions).
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    rewards: torch.Tensor | None = None


class GroupTrainer(
    DynamicSampler, SkippingTrainer, OnePassTrainer, ResumableTrainer, TrackingTrainer, TimedTrainer, PrintingTrainer
):
    """GRPO at the cost of one prompt and one image per group; the numbers are those of `GRPOTrainer`.

    The arguments are those of `GRPOTrainer`, in its order. The configuration may be a `GroupConfig`, whose fields say
    how groups are computed and filled; of a `GRPOConfig` they have their defaults.

    Args:
        model: the policy, a checkpoint path or a loaded model. Other families than those of `attention.SUPPORTED` are
            trained with TRL's own forward, and a warning says why.
        reward_funcs: reward functions, as TRL takes them.
        args: the configuration.
        train_dataset: rows with `prompt` and, for a vision-language model, `image` (one) or `images` (a list).
        eval_dataset: the same, or a dict of several sets.
        processing_class: the model's processor or tokenizer; it is set to pad on the left.
        kwargs: further arguments of `GRPOTrainer`.
    """

    _buffered_inputs: list[dict[str, Any]] | None
    log_multimodal: bool

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Callable | list[Callable] | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        **kwargs: Any,
    ) -> None:
        # TRL builds multimodal token types for left-padded prompts only.
        for padded in (processing_class, getattr(processing_class, "tokenizer", None)):
            if padded is not None and hasattr(padded, "padding_side"):
                padded.padding_side = "left"
        if args is not None:
            check_choices(args)
            check_dynamic_sampling(args, train_dataset, reward_funcs)
            check_model_settings(model, args, kwargs.get("peft_config"), kwargs.get("quantization_config"))
        self.engine_options: dict[str, Any] = {}
        if args is not None and args.use_vllm:
            self.engine_options = choose_engine_options(model, args, train_dataset)
            check_server(args, model, self.engine_options)
        engine = use_engine(args.vllm_mode, self.engine_options) if self.engine_options and args else nullcontext()
        reference = reference_loaded_in(getattr(args, "ref_model_dtype", None), not isinstance(model, str))
        with engine, reference:
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=leave_encoded(train_dataset),
                eval_dataset=leave_encoded(eval_dataset),
                processing_class=processing_class,
                **kwargs,
            )
        if self.engine_options:  # vLLM never samples an image token, so both sides leave these out
            for policy in self._policies():
                suppress_image_tokens(policy, self.processing_class)
        if self.accelerator.num_processes > 1:
            for policy in self._policies():
                compute_tower_together(policy, self.processing_class, weights_sharded(), always=needs_gradients(self))
        self.shares_prefix = getattr(self.args, "shared_prefix", True) and self._install_shared_prefix()
        self.rollout = Rollout()

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        counts = ImageCounts()
        rows = share_images(inputs, counts)
        if any("image" in row and row["image"] is None for row in rows):
            # TRL expects an image in every row's `image`; its other column may be empty
            rows = [{**row, "images": list_images(row)} for row in rows]
        groups = number_groups(len(rows), self.accelerator.process_index * len(rows), self._group_size)
        self.rollout = Rollout(rows, groups)
        self._log_completion_extra("group", groups)
        log_multimodal, self.log_multimodal = self.log_multimodal, False
        try:
            with process_images_once(self.processing_class, counts, repeated=not self._keeps_pixels_apart):
                output = super()._generate_and_score_completions(rows)
        finally:
            self.log_multimodal = log_multimodal
        if log_multimodal and {"image", "images"} & rows[0].keys():
            # TRL gathers images from the processes that have some, and waits for the others forever
            self._logs["images"].extend(gather_object([list_images(row) for row in rows]))
        if "pixel_values" in output:
            output["pixel_values"] = self._pixels_apart(output)
        if getattr(self.args, "skip_flat_groups", False) and self.model.training:
            for group, differs in enumerate(self._judge_groups("spread")):
                if not differs:  # of equal rewards, TRL's mean is rounded
                    output["advantages"][self._local_rows(group, len(rows))] = 0.0
        prompts = [_plain_content(prompt) for prompt in self._logs["prompt"]]
        self._logs["prompt"].clear()
        self._logs["prompt"].extend(prompts)
        mode = "train" if self.model.training else "eval"
        for name, value in vars(counts).items():
            self._metrics[mode][f"images/{name}"].append(value)
        return output

    def _tokenize_prompts(self, prompts: list) -> tuple:
        """Tokenise the prompt of each group once; vLLM needs token ids and images, and none of the other fields."""
        if not self.use_vllm or self.tools:
            ids, images, fields = super()._tokenize_prompts(prompts)
            # Processors take an empty list for a row without an image, not None
            return ids, images and [row or [] for row in images], fields
        firsts: dict[int, int] = {}  # the first row of each group
        places = [firsts.setdefault(group, row) for row, group in enumerate(self.rollout.groups)]
        if len(places) != len(prompts) or any(prompts[row] != prompts[first] for row, first in enumerate(places)):
            places = list(range(len(prompts)))  # prompts that an environment wrote
        distinct = {first: number for number, first in enumerate(dict.fromkeys(places))}
        ids, images, _ = super()._tokenize_prompts([prompts[first] for first in distinct])
        rows = [distinct[first] for first in places]
        return [ids[row] for row in rows], images and [images[row] or [] for row in rows], {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple:
        """Generate; a completion without any token, from which nothing could be learned, becomes an end of turn."""
        with plain_generation(self.accelerator.unwrap_model(self.model)):
            completion_ids, log_probs = super()._generate_single_turn(*args, **kwargs)
        for row, ids in enumerate(completion_ids):
            if not len(ids):
                completion_ids[row] = [self._tokenizer.eos_token_id]
                if log_probs is not None:
                    log_probs[row] = [None]
        return completion_ids, log_probs

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Generate when it is time, and return the next micro-batch; TRL's method, but groups are shuffled whole."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._mark_groups(self._fill_batch(generation_batch))
            batch = take_rows(batch, permute_groups(self.rollout.groups).tolist())
            parts = split_tensor_dict(batch, self.args.steps_per_generation)
            self._buffered_inputs = [join_rows(part, self._keeps_pixels_apart) for part in parts]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]


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
