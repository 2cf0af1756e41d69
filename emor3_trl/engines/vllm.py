"""The policy on vLLM."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed

from emor3_trl.engines.choices import ChoiceTree, QuestionEncoder
from emor3_trl.engines.engine import ChoiceCost, Completion, Continuation, Question, WeighedAnswer
from emor3_trl.engines.policy import image_token_bias

MAX_SCORED = 128  # tokens whose log-probabilities vLLM returns (its MAX_LOGPROB_TOKEN_IDS)


class VLLMEngine:
    """Generates, chooses and scores with a vLLM engine that has `ChoiceLogitsProcessor` (see `engine_options`).

    Args:
        llm: a `vllm.LLM`, awake.
        processor: the policy's processor.
        group: the process group whose ranks hold one engine together (tensor parallelism), None for an engine each.
    """

    def __init__(self, llm: Any, processor: Any, group: Any | None = None) -> None:
        self.llm, self.processor, self.group = llm, processor, group
        self.encoder = QuestionEncoder(processor)

    def generate(
        self, texts: Sequence[str], images: Sequence[Any], *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        from vllm import SamplingParams

        # What a batch finds in the caches must not depend on the batches before it: a resumed run has not seen them.
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()
        prompts = [
            {"prompt_token_ids": self.encoder.trusted_ids(text), "multi_modal_data": {"image": image}}
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
                Completion(completion.text, len(completion.token_ids), completion.finish_reason == "stop")
                for completion in row.outputs
            ]
            for row in outputs
        ]

    def choose(self, questions: Sequence[Question]) -> tuple[list[str], ChoiceCost]:
        """Answer all questions in one call of vLLM; ranks that share an engine answer those of all, and keep theirs."""
        return self._answer_together(questions, self._choose)

    def weigh(self, questions: Sequence[Question]) -> tuple[list[WeighedAnswer], ChoiceCost]:
        """See `Engine.weigh`; as `choose`, in one call of vLLM.

        Raises:
            ValueError: if a question has so many choices that vLLM cannot give the probabilities of their tokens.
        """
        return self._answer_together(questions, self._weigh)

    def _answer_together(self, questions: Sequence[Question], answer: Callable) -> tuple[list[Any], ChoiceCost]:
        if self.group is None:
            return answer(questions)
        questions_by_rank: list[Any] = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(questions_by_rank, list(questions), group=self.group)
        rank = torch.distributed.get_rank(self.group)
        first = sum(map(len, questions_by_rank[:rank]))
        answers, cost = answer([question for part in questions_by_rank for question in part])
        return answers[first : first + len(questions)], cost

    def _choose(self, questions: Sequence[Question]) -> tuple[list[str], ChoiceCost]:
        answers, cost = self._decode_answers(questions, keeps_scores=False)
        trees = [self.encoder.tree(question.choices) for question in questions]
        rows = zip(questions, trees, answers, strict=True)
        return [question.choices[tree.decided_choice(answer.token_ids)] for question, tree, answer in rows], cost

    def _weigh(self, questions: Sequence[Question]) -> tuple[list[WeighedAnswer], ChoiceCost]:
        answers, cost = self._decode_answers(questions, keeps_scores=True)
        weighed = []
        for question, answer in zip(questions, answers, strict=True):
            scores = [{token: entry.logprob for token, entry in place.items()} for place in answer.logprobs]
            weighed.append(self.encoder.read_weighed(question, list(answer.token_ids), scores))
        return weighed, cost

    def _decode_answers(self, questions: Sequence[Question], keeps_scores: bool) -> tuple[list[Any], ChoiceCost]:
        """Return vLLM's output for each question, with the log-probabilities of the deciding tokens if kept."""
        if not questions:
            return [], ChoiceCost()
        from vllm import SamplingParams

        start = time.perf_counter()
        trees = [self.encoder.tree(question.choices) for question in questions]
        prompts = [
            {"prompt_token_ids": self.encoder.prompt_ids(question)}
            | ({} if question.image is None else {"multi_modal_data": {"image": question.image}})
            for question in questions
        ]
        params = [
            SamplingParams(
                temperature=0.0,
                max_tokens=tree.depth,
                stop_token_ids=[tree.end_token_id],
                detokenize=False,
                logprob_token_ids=_list_deciding(tree) if keeps_scores else None,
                extra_args={"choice_tree": tree.spellings, "end_token_id": tree.end_token_id},
            )
            for tree in trees
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        answers = [output.outputs[0] for output in outputs]
        cost = ChoiceCost(
            requests=len(outputs),
            prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
            cached_tokens=sum(output.num_cached_tokens or 0 for output in outputs),
            generated_tokens=sum(len(answer.token_ids) for answer in answers),
            seconds=time.perf_counter() - start,
        )
        return answers, cost

    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[list[float]]:
        """See `Engine.log_probabilities`; prompts come from the prefix cache where they were just completed."""
        from vllm import SamplingParams

        prompts = [
            {
                "prompt_token_ids": [*self.encoder.trusted_ids(continuation.text), *continuation.prefix],
                "multi_modal_data": {"image": continuation.image},
            }
            for continuation in continuations
        ]
        params = [
            SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(row.candidates), detokenize=False)
            for row in continuations
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [output.outputs[0].logprobs[0][token].logprob for token in continuation.candidates]
            for output, continuation in zip(outputs, continuations, strict=True)
        ]

    def close(self) -> None:
        """Let go of the engine."""
        del self.llm


def _list_deciding(tree: ChoiceTree) -> list[int]:
    """Return the tokens whose log-probabilities weigh the choices of a tree.

    Raises:
        ValueError: if there are more than vLLM returns.
    """
    tokens = tree.deciding_tokens()
    if len(tokens) > MAX_SCORED:
        raise ValueError(
            f"soft_reflection asks for the probabilities of {len(tree.paths)} labels, which {len(tokens)} tokens tell "
            f"apart; vLLM returns {MAX_SCORED}. Set soft_reflection: none, or use_vllm: false."
        )
    return tokens
