"""The policy on transformers, where vLLM is not installed or the model is in training."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, GenerationConfig

from emor3_trl.engines.choices import QuestionEncoder, lacks_start
from emor3_trl.engines.engine import ChoiceCost, Completion, Continuation, Question, WeighedAnswer
from emor3_trl.engines.policy import image_token_ids
from emor3_trl.launch import quiet_deepspeed
from emor3_trl.prompts import render

# What a processor returns for each token; all else that it returns belongs to the images
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class TransformersEngine:
    """Generates, chooses and scores with a vision-language model; with a text model where nothing has an image.

    Args:
        model: the policy, on any device.
        processor: its processor.
        batch_size: questions, or continuations, per forward.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 32) -> None:
        quiet_deepspeed()  # Transformers asks for it when a model generates, where it is installed
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.group = None
        self.encoder = QuestionEncoder(processor)

    @torch.no_grad()
    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        # Rows are repeated here: `generate` would repeat the tiles of an image one by one, out of order
        prompts = [render(self.processor, text) for text in texts for _ in range(n)]
        images = [image for image in images for _ in range(n)]
        inputs = padded_inputs(self.processor, prompts, [()] * len(prompts), images).to(self.model.device)
        completions = self.complete(inputs, temperature=temperature, max_tokens=max_tokens, seed=seed)
        return [completions[row : row + n] for row in range(0, len(completions), n)]

    @torch.no_grad()
    def complete(
        self,
        inputs: Mapping[str, torch.Tensor],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        streamer: Any | None = None,
    ) -> list[Completion]:
        """Return one completion of each prompt; greedy at temperature 0.

        Args:
            inputs: what the model is called with: B prompts with `input_ids` or `inputs_embeds`, padded on the left.
            temperature: of sampling.
            max_tokens: longest completion.
            seed: sampling seed.
            streamer: of transformers; it gets each token as it is written, of a single prompt.
        """
        options: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            options = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with evaluating(self.model), plain_generation(self.model), torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.model.generate(
                **inputs,
                **options,
                max_new_tokens=max_tokens,
                suppress_tokens=image_token_ids(self.processor) or None,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                streamer=streamer,
            )
        # `generate` returns a prompt of ids before the completion, and none of embeddings
        completion_ids = output[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else output
        texts = self.processor.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        ends = torch.isin(completion_ids, torch.tensor(_end_token_ids(self.model), device=completion_ids.device))
        finished = ends.any(dim=1).tolist()
        counts = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, completion_ids.shape[1]).tolist()
        return [Completion(*row) for row in zip(texts, counts, finished, strict=True)]

    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ChoiceCost]:
        """Answer the questions in batches, those with an image first."""
        return self._answer(questions, self._choose_batch)

    def weigh(self, questions: Sequence[Question]) -> tuple[list[WeighedAnswer], ChoiceCost]:
        """See `Engine.weigh`."""
        return self._answer(questions, self._weigh_batch)

    def _answer(self, questions: Sequence[Question], answer_batch: Callable) -> tuple[list[Any], ChoiceCost]:
        start = time.perf_counter()
        cost = ChoiceCost(requests=len(questions))
        answers: dict[int, Any] = {}
        with_image = [row for row, question in enumerate(questions) if question.image is not None]
        without = [row for row, question in enumerate(questions) if question.image is None]
        for rows in (with_image, without):
            for first in range(0, len(rows), self.batch_size):
                batch = rows[first : first + self.batch_size]
                answers |= dict(zip(batch, answer_batch([questions[row] for row in batch], cost), strict=True))
        cost.seconds = time.perf_counter() - start
        return [answers[row] for row in range(len(questions))], cost

    def _choose_batch(self, questions: Sequence[Question], cost: ChoiceCost) -> list[str]:
        answer_ids, _ = self._decode_answers(questions, cost, keeps_scores=False)
        trees = [self.encoder.tree(question.choices) for question in questions]
        rows = zip(questions, trees, answer_ids, strict=True)
        return [question.choices[tree.decided_choice(ids)] for question, tree, ids in rows]

    def _weigh_batch(self, questions: Sequence[Question], cost: ChoiceCost) -> list[WeighedAnswer]:
        answer_ids, scores = self._decode_answers(questions, cost, keeps_scores=True)
        weighed = []
        for row, (question, ids) in enumerate(zip(questions, answer_ids, strict=True)):
            tokens = self.encoder.tree(question.choices).deciding_tokens()
            places = [dict(zip(tokens, step[row, tokens].tolist(), strict=True)) for step in scores]
            weighed.append(self.encoder.read_weighed(question, ids, places))
        return weighed

    @torch.no_grad()
    def _decode_answers(
        self, questions: Sequence[Question], cost: ChoiceCost, keeps_scores: bool
    ) -> tuple[list[list[int]], tuple[torch.Tensor, ...]]:
        """Return the tokens of each answer, and the scores of each place where they are kept, (B, vocabulary)."""
        beginnings, rests = zip(*map(self.encoder.split_prompt, questions), strict=True)
        inputs = padded_inputs(self.processor, beginnings, rests, [question.image for question in questions])
        length = inputs["input_ids"].shape[1]
        trees = [self.encoder.tree(question.choices) for question in questions]
        with evaluating(self.model), plain_generation(self.model):
            output = self.model.generate(
                **inputs.to(self.model.device),
                do_sample=False,
                max_new_tokens=max(tree.depth for tree in trees),
                eos_token_id=self.encoder.end_token_id,
                pad_token_id=self.encoder.tokenizer.pad_token_id,
                prefix_allowed_tokens_fn=lambda row, ids: trees[row].allowed_tokens(ids[length:].tolist()),
                output_scores=keeps_scores,
                return_dict_in_generate=True,
            )
        answer_ids = output.sequences[:, length:].tolist()
        cost.prompt_tokens += int(inputs["attention_mask"].sum())
        cost.generated_tokens += sum(min(tree.depth, len(ids)) for tree, ids in zip(trees, answer_ids, strict=True))
        return answer_ids, output.scores or ()

    @torch.no_grad()
    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """See `Engine.log_probabilities`."""
        log_probs: list[list[float]] = []
        with evaluating(self.model):
            for first in range(0, len(continuations), self.batch_size):
                batch = continuations[first : first + self.batch_size]
                prompts = [render(self.processor, row.text) for row in batch]
                prefixes, images = [row.prefix for row in batch], [row.image for row in batch]
                inputs = padded_inputs(self.processor, prompts, prefixes, images)
                logits = self.model(**inputs.to(self.model.device), logits_to_keep=1).logits[:, -1]  # (B, vocabulary)
                scores = logits.float().log_softmax(dim=-1)
                log_probs += [
                    row_scores[list(row.candidates)].tolist() for row_scores, row in zip(scores, batch, strict=True)
                ]
        return log_probs


def padded_inputs(
    processor: Any, beginnings: Sequence[str], rests: Sequence[Sequence[int]], images: Sequence[Any | None]
) -> BatchFeature:
    """Return what a model is called with, padded on the left.

    Args:
        processor: the policy's processor, or its tokenizer for a text model.
        beginnings: how B prompts begin, as the chat template writes it; an image's placeholder stands in this part.
        rests: token ids that follow.
        images: their images, or None for all of them.

    Returns:
        `input_ids` and `attention_mask` of shape (B, L), image tokens expanded, and whatever the processor returns for
        the images.
    """
    given = {} if all(image is None for image in images) else {"images": [[image] for image in images]}
    tokenizer = getattr(processor, "tokenizer", processor)
    inputs = processor(
        text=list(beginnings), **given, padding=True, padding_side="left", return_tensors="pt",
        add_special_tokens=lacks_start(tokenizer, beginnings[0]),  # one chat template writes all beginnings
    )  # fmt: skip
    kept = inputs["attention_mask"].bool()
    pad = tokenizer.pad_token_id
    for name in PER_TOKEN:
        if name not in inputs:
            continue
        of_text = {"input_ids": rests, "attention_mask": [[1] * len(ids) for ids in rests]}
        further = of_text.get(name, [[0] * len(ids) for ids in rests])  # text is of type 0
        rows = [
            torch.cat([row[mask], row.new_tensor(more)])
            for row, mask, more in zip(inputs[name], kept, further, strict=True)
        ]
        padding = pad if name == "input_ids" else 0
        inputs[name] = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left")
    return inputs


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Leave out dropout for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Let a model generate from its own distribution for a while.

    A checkpoint's `generation_config.json` may hold penalties, suppressed or forced tokens and more, which `generate`
    takes wherever its caller says nothing. Each makes another policy. Only the tokens that end a text are kept.

    Args:
        model: a model that no launcher has wrapped, adapted or not.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    stock = base.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    base.generation_config = GenerationConfig(**{name: getattr(stock, name) for name in names})
    try:
        yield
    finally:
        base.generation_config = stock


def _end_token_ids(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
