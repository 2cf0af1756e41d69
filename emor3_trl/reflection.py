"""Reflection: the policy looks again at its own first two steps (paper, Sec. 3.3).

Two questions are asked of every well-formed completion: can step 1 describe the image (consistency, Eq. 3, with the
image), and which emotion do steps 1 and 2 describe (coherence, Eq. 4, text only). Both questions of all completions go
to the engine in one call, identical ones once. Answers are decoded greedily under the constraint that they are one of
the choices, so there is nothing to parse and an answer costs as few tokens as tell it from the others.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed

from emor3_trl.emotions import LabelSpace, label_space
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, messages
from emor3_trl.thinking import parse, says_something

CONSISTENCY_CHOICES = ("Yes", "No")

# Stands for the text of a question while the chat template is rendered; no template or tokenizer treats it specially.
_TEXT_SLOT = "\u241eemor3-text\u241e"


@dataclass(frozen=True)
class Reflection:
    """What the policy answers about one completion; None where it was not asked.

    Args:
        consistency_answer: "Yes" or "No".
        coherence_answer: a label of the row's label space.
    """

    consistency_answer: str | None = None
    coherence_answer: str | None = None


@dataclass(frozen=True)
class Question:
    """One question with its choices: what an engine is asked.

    Args:
        text: the text of the user turn, data that may hold anything.
        choices: the permitted answers, two or more.
        image: a PIL image that stands before the text, or None.
    """

    text: str
    choices: tuple[str, ...]
    image: Any | None = None


@dataclass
class ReflectionCost:
    """What one call of `Reflector.reflect` cost.

    Args:
        requests: distinct questions that the engine answered.
        prompt_tokens: tokens of their prompts, images included.
        cached_tokens: how many of those came from the prefix cache.
        generated_tokens: tokens of the answers.
        seconds: wall-clock time.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0


class ReflectionEngine(Protocol):
    """Answers questions with the policy's weights."""

    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ReflectionCost]:
        """Return the chosen answer to each question, and what that cost."""


class ChoiceTree:
    """The permitted next tokens while one of several choices is being written.

    Each choice is spelled in its usual tokens and cut where it differs from all others, so "Yes" or "No" is one token.

    Args:
        spellings: token ids of each choice, in the order of the choices.
        end_token_id: ends an answer, where one choice is the beginning of another or is shorter than another.

    Raises:
        ValueError: if two choices are spelled the same, or one is empty.
    """

    def __init__(self, spellings: Sequence[Sequence[int]], end_token_id: int) -> None:
        paths = [(*spelling, end_token_id) for spelling in spellings]
        if len(set(paths)) != len(paths) or any(len(path) == 1 for path in paths):
            raise ValueError(f"Choices must be distinct and not empty, but they are spelled {list(spellings)}.")
        self.spellings = [list(spelling) for spelling in spellings]
        self.end_token_id = end_token_id
        self.paths = [_shortest_distinct(path, paths) for path in paths]
        self.depth = max(len(path) for path in self.paths)

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Return the tokens that may follow `written`; the end token once a choice is decided."""
        written = tuple(written)
        following = {
            path[len(written)] for path in self.paths if len(path) > len(written) and path[: len(written)] == written
        }
        return sorted(following) or [self.end_token_id]

    def decided(self, written: Sequence[int]) -> int:
        """Return the index of the choice that `written` decides."""
        return next(i for i, path in enumerate(self.paths) if tuple(written[: len(path)]) == path)


def _shortest_distinct(path: tuple[int, ...], paths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    for length in range(1, len(path)):
        if sum(other[:length] == path[:length] for other in paths) == 1:
            return path[:length]
    return path


class QuestionEncoder:
    """Turns questions into token ids and choices into trees.

    The chat template is rendered around an empty slot, and the text is tokenised on its own as data: whatever the
    policy wrote, it cannot become a special token, so the structure of the prompt is always the template's.

    Args:
        processor: the policy's processor, or its tokenizer for a text model.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._frames: dict[bool, tuple[list[int], list[int]]] = {}
        self._trees: dict[tuple[str, ...], ChoiceTree] = {}

    def prompt_ids(self, question: Question) -> list[int]:
        """Return the prompt's token ids, with one image token where the image stands."""
        before, after = self._frame(question.image is not None)
        return before + self.data_ids(question.text) + after

    def tree(self, choices: tuple[str, ...]) -> ChoiceTree:
        """Return the tree that constrains an answer to `choices`."""
        if choices not in self._trees:
            self._trees[choices] = ChoiceTree([self.data_ids(choice) for choice in choices], self.end_token_id)
        return self._trees[choices]

    @property
    def end_token_id(self) -> int:
        """The token that ends a turn."""
        return self.tokenizer.eos_token_id

    def _frame(self, with_image: bool) -> tuple[list[int], list[int]]:
        if with_image not in self._frames:
            conversation = messages(_TEXT_SLOT, image=True if with_image else None)
            for part in conversation[0]["content"]:
                part.pop("image", None)
            if not hasattr(self.processor, "tokenizer"):
                conversation[0]["content"] = _TEXT_SLOT
            rendered = self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
            before, after = rendered.split(_TEXT_SLOT)
            self._frames[with_image] = (
                self.tokenizer(before, add_special_tokens=False)["input_ids"],
                self.tokenizer(after, add_special_tokens=False)["input_ids"],
            )
        return self._frames[with_image]

    def data_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that may hold anything, none of them special."""
        text = text.encode("utf-8", "replace").decode()  # a tokenizer refuses half of a surrogate pair
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = set(self.tokenizer.all_special_ids)
        return [token for token in ids if token not in special]


class VLLMEngine:
    """Answers with a vLLM engine that was built with `ChoiceLogitsProcessor` (see `rollout.engine_options`).

    Args:
        llm: a `vllm.LLM`, awake.
        processor: the policy's processor.
        group: the process group whose ranks hold one engine together (tensor parallelism), None for an engine each.
    """

    def __init__(self, llm: Any, processor: Any, group: Any | None = None) -> None:
        self.llm = llm
        self.encoder = QuestionEncoder(processor)
        self.group = group

    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ReflectionCost]:
        """Answer all questions in one call of the engine; ranks that share one answer those of all, and keep theirs."""
        if self.group is None:
            return self._choose(questions)
        everyones: list[Any] = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(everyones, list(questions), group=self.group)
        rank = torch.distributed.get_rank(self.group)
        first = sum(map(len, everyones[:rank]))
        answers, cost = self._choose([question for asked in everyones for question in asked])
        return answers[first : first + len(questions)], cost

    def _choose(self, questions: Sequence[Question]) -> tuple[list[str], ReflectionCost]:
        if not questions:
            return [], ReflectionCost()
        from vllm import SamplingParams

        start = time.perf_counter()
        prompts, params, trees = [], [], []
        for question in questions:
            tree = self.encoder.tree(question.choices)
            prompt: dict[str, Any] = {"prompt_token_ids": self.encoder.prompt_ids(question)}
            if question.image is not None:
                prompt["multi_modal_data"] = {"image": question.image}
            prompts.append(prompt)
            trees.append(tree)
            params.append(
                SamplingParams(
                    temperature=0.0,
                    max_tokens=tree.depth,
                    stop_token_ids=[tree.end_token_id],
                    detokenize=False,
                    extra_args={"choice_tree": tree.spellings, "end_token_id": tree.end_token_id},
                )
            )
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        written = [list(output.outputs[0].token_ids) for output in outputs]
        answers = [
            question.choices[tree.decided(ids)] for question, tree, ids in zip(questions, trees, written, strict=True)
        ]
        cost = ReflectionCost(
            requests=len(outputs),
            prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
            cached_tokens=sum(output.num_cached_tokens or 0 for output in outputs),
            generated_tokens=sum(map(len, written)),
            seconds=time.perf_counter() - start,
        )
        return answers, cost


class TransformersEngine:
    """Answers with a transformers model of the Qwen-VL family, or a text model when no question has an image.

    Args:
        model: the policy, on any device.
        processor: the policy's processor.
        batch_size: questions per forward.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 32) -> None:
        self.model = model
        self.encoder = QuestionEncoder(processor)
        self.batch_size = batch_size

    @torch.no_grad()
    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ReflectionCost]:
        """Answer the questions in batches, those with an image first."""
        start = time.perf_counter()
        cost = ReflectionCost(requests=len(questions))
        answers: dict[int, str] = {}
        order = sorted(range(len(questions)), key=lambda i: questions[i].image is None)
        with_image = sum(question.image is not None for question in questions)
        starts = [*range(0, with_image, self.batch_size), *range(with_image, len(order), self.batch_size)]
        for low, high in zip(starts, [*starts[1:], len(order)], strict=True):
            chunk = order[low:high]
            for index, answer in zip(chunk, self._choose_batch([questions[i] for i in chunk], cost), strict=True):
                answers[index] = answer
        cost.seconds = time.perf_counter() - start
        return [answers[i] for i in range(len(questions))], cost

    def _choose_batch(self, questions: Sequence[Question], cost: ReflectionCost) -> list[str]:
        device, pad = self.model.device, self.encoder.tokenizer.pad_token_id
        prompts = [self.encoder.prompt_ids(question) for question in questions]
        inputs = padded_inputs(self.encoder.processor, prompts, [question.image for question in questions])
        length = inputs["input_ids"].shape[1]
        trees = [self.encoder.tree(question.choices) for question in questions]
        output = self.model.generate(
            **{key: value.to(device) for key, value in inputs.items()},
            do_sample=False,
            repetition_penalty=1.0,  # a checkpoint's own would punish choices that the question lists
            max_new_tokens=max(tree.depth for tree in trees),
            eos_token_id=self.encoder.end_token_id,
            pad_token_id=pad,
            prefix_allowed_tokens_fn=lambda row, ids: trees[row].allowed(ids[length:].tolist()),
        )
        written = output[:, length:].tolist()
        cost.prompt_tokens += int(inputs["attention_mask"].sum())
        cost.generated_tokens += sum(min(tree.depth, len(ids)) for tree, ids in zip(trees, written, strict=True))
        return [
            question.choices[tree.decided(ids)] for question, tree, ids in zip(questions, trees, written, strict=True)
        ]


def padded_inputs(
    processor: Any, prompts: Sequence[Sequence[int]], images: Sequence[Any | None]
) -> dict[str, torch.Tensor]:
    """Return what a model of the Qwen-VL family is called with, padded on the left.

    Args:
        processor: the policy's processor, or its tokenizer for a text model.
        prompts: token ids of B prompts; one image token stands where an image does.
        images: their images, or None for all of them.

    Returns:
        `input_ids` and `attention_mask` of shape (B, L), image tokens expanded, and what belongs to the images.
    """
    inputs: dict[str, torch.Tensor] = {}
    if images[0] is not None:
        pixels = processor.image_processor(images=list(images), return_tensors="pt")
        inputs = {"pixel_values": pixels["pixel_values"], "image_grid_thw": pixels["image_grid_thw"]}
        counts = (pixels["image_grid_thw"].prod(dim=-1) // processor.image_processor.merge_size**2).tolist()
        prompts = [
            [token for t in ids for token in [t] * (count if t == processor.image_token_id else 1)]
            for ids, count in zip(prompts, counts, strict=True)
        ]
    length = max(map(len, prompts))
    pad = getattr(processor, "tokenizer", processor).pad_token_id
    inputs["input_ids"] = torch.tensor([[pad] * (length - len(ids)) + list(ids) for ids in prompts])
    inputs["attention_mask"] = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts])
    if images[0] is not None:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.image_token_id).long()
    return inputs


@dataclass
class Reflector:
    """Asks the policy both reflection questions about its completions.

    Args:
        engine: `VLLMEngine` or `TransformersEngine`, with the policy's current weights.

    `last_cost` is what the last call cost.
    """

    engine: ReflectionEngine
    last_cost: ReflectionCost = field(default_factory=ReflectionCost)

    def reflect(
        self,
        images: Sequence[Any | None],
        completions: Sequence[str],
        label_spaces: Sequence[str | Sequence[str] | LabelSpace],
    ) -> list[Reflection]:
        """Ask about each completion (paper, Eq. 3 and 4); nothing is asked about a malformed one, or a wordless step 1.

        Args:
            images: the PIL image of each completion's prompt, or None (then consistency is not asked).
            completions: the completions, as text.
            label_spaces: the label space of each row, whose labels are the choices of the coherence question.

        Returns:
            One `Reflection` per completion, in order.
        """
        distinct: dict[Any, int] = {}
        questions: list[Question] = []
        asked: list[tuple[int | None, int | None]] = []

        def ask(question: Question) -> int:
            key = (question.text, question.choices, id(question.image))
            if key not in distinct:
                distinct[key] = len(questions)
                questions.append(question)
            return distinct[key]

        for image, completion, space in zip(images, completions, label_spaces, strict=True):
            thinking = parse(completion)
            if thinking is None or not says_something(thinking.trigger):
                asked.append((None, None))
                continue
            labels = label_space(space).labels
            consistency = CONSISTENCY_QUESTION.format(trigger=thinking.trigger)
            coherence = COHERENCE_QUESTION.format(
                trigger=thinking.trigger, feeling=thinking.feeling, labels=", ".join(labels)
            )
            asked.append(
                (
                    None if image is None else ask(Question(consistency, CONSISTENCY_CHOICES, image)),
                    ask(Question(coherence, labels)),
                )
            )
        # Ranks that hold one engine together call it together, with questions or without
        joint = getattr(self.engine, "group", None) is not None
        answers, self.last_cost = self.engine.choose(questions) if questions or joint else ([], ReflectionCost())
        return [Reflection(None if i is None else answers[i], None if j is None else answers[j]) for i, j in asked]
