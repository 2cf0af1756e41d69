"""Answers under a constraint: the prompt of a question, and the tree of tokens that leads to its choices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from emor3_trl.engines.engine import Question, WeighedAnswer
from emor3_trl.prompts import render

# Stands for the text of a question while the chat template is rendered; no template or tokenizer treats it specially.
_TEXT_SLOT = "\u241eemor3-text\u241e"


class ChoiceTree:
    """The permitted next tokens while one of several choices is being prefix.

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

    def allowed_tokens(self, prefix: Sequence[int]) -> list[int]:
        """Return the tokens that may follow `prefix`; the end token once a choice is decided."""
        prefix = tuple(prefix)
        following = {
            path[len(prefix)] for path in self.paths if len(path) > len(prefix) and path[: len(prefix)] == prefix
        }
        return sorted(following) or [self.end_token_id]

    def decided_choice(self, prefix: Sequence[int]) -> int:
        """Return the index of the choice that `prefix` decides."""
        return next(i for i, path in enumerate(self.paths) if tuple(prefix[: len(path)]) == path)

    def deciding_tokens(self) -> list[int]:
        """Return the tokens that tell choices apart: those of the places where several may follow."""
        prefixes = {path[:length] for path in self.paths for length in range(len(path))}
        allowed = [self.allowed_tokens(prefix) for prefix in prefixes]
        return sorted({token for tokens in allowed if len(tokens) > 1 for token in tokens})

    def weigh_choices(
        self, answer_ids: Sequence[int], scores: Sequence[Mapping[int, float]]
    ) -> tuple[list[float], list[bool]]:
        r"""Return the probability of each choice, as far as one greedy answer tells it, and whether it is exact.

        Under the constraint, choice c with the tokens c_1 … c_n has P(c) = prod_k p(c_k | c_1 … c_k-1), with p
        normalised over the tokens that the tree allows there. The answer a has seen p at the places of its own path
        alone. Let k be the first place where c leaves that path. Then M = p(a_1) … p(a_k-1) p(c_k) is known, which is
        the probability of all m choices that begin like c up to there. P(c) = M where m is 1: exact. Else M is shared
        alike, P(c) = M / m: what is not seen between siblings is taken as even. Since greedy decoding took another
        token at k, M is at most 1/2, and |P(c) - M / m| <= M (m - 1) / m. The answer itself is always exact, and so is
        everything where the first tokens of all choices differ. The probabilities add up to 1.

        Args:
            answer_ids: the tokens of the answer.
            scores: at each of its places, the log-probability of the tokens of `deciding_tokens`, or of more. They may
                lack a common constant: they are normalised here.
        """
        probabilities, is_exact = [], []
        for path in self.paths:
            probability, siblings = 1.0, 1
            for place, token in enumerate(path):
                probability *= self._share_token(token, answer_ids[:place], scores[place])
                if token != answer_ids[place]:
                    siblings = sum(other[: place + 1] == path[: place + 1] for other in self.paths)
                    break
            probabilities.append(probability / siblings)
            is_exact.append(siblings == 1)
        return probabilities, is_exact

    def _share_token(self, token: int, prefix: Sequence[int], scores: Mapping[int, float]) -> float:
        """Return the probability of a token among those that are allowed after `prefix`."""
        allowed = self.allowed_tokens(prefix)
        if len(allowed) == 1:
            return 1.0
        top = max(scores[other] for other in allowed)
        return math.exp(scores[token] - top) / sum(math.exp(scores[other] - top) for other in allowed)


def _shortest_distinct(path: tuple[int, ...], paths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    for length in range(1, len(path)):
        if sum(other[:length] == path[:length] for other in paths) == 1:
            return path[:length]
    return path


def lacks_start(tokenizer: Any, rendered: str) -> bool:
    """Return whether a tokenizer has to add the token that starts a text, as LLaVA-1.5's does.

    The chat templates of some families write it (Gemma 3), those of others leave it to the tokenizer (LLaVA-1.5), and
    others have none (Qwen). TRL's prompts in training follow the same rule, which is that of `apply_chat_template`.

    Args:
        tokenizer: the model's tokenizer.
        rendered: how a prompt begins, as the chat template writes it.
    """
    return tokenizer.bos_token is None or not rendered.startswith(tokenizer.bos_token)


def prompt_beginning_ids(tokenizer: Any, rendered: str) -> list[int]:
    """Return the tokens of a prompt, or of its beginning, with the token that starts a text where the family has one.

    Args:
        tokenizer: the model's tokenizer.
        rendered: what the chat template writes.
    """
    return list(tokenizer(rendered, add_special_tokens=lacks_start(tokenizer, rendered))["input_ids"])


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
        self._frames: dict[bool, tuple[str, str]] = {}
        self._trees: dict[tuple[str, ...], ChoiceTree] = {}

    def prompt_ids(self, question: Question) -> list[int]:
        """Return the prompt's token ids, with one image token where the image stands."""
        beginning, rest = self.split_prompt(question)
        return prompt_beginning_ids(self.tokenizer, beginning) + rest

    def split_prompt(self, question: Question) -> tuple[str, list[int]]:
        """Return how the prompt begins, as the chat template writes it, and the tokens from the question's text on."""
        before, after = self._frame(question.image is not None)
        after_ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        return before, self.data_ids(question.text) + after_ids

    def tree(self, choices: tuple[str, ...]) -> ChoiceTree:
        """Return the tree that constrains an answer to `choices`."""
        if choices not in self._trees:
            self._trees[choices] = ChoiceTree([self.data_ids(choice) for choice in choices], self.end_token_id)
        return self._trees[choices]

    def read_weighed(
        self, question: Question, answer_ids: Sequence[int], scores: Sequence[Mapping[int, float]]
    ) -> WeighedAnswer:
        """Return the answer that was decoded, with the probability of each choice; see `ChoiceTree.weigh_choices`."""
        tree = self.tree(question.choices)
        probabilities, is_exact = tree.weigh_choices(answer_ids, scores)
        answer = question.choices[tree.decided_choice(answer_ids)]
        return WeighedAnswer(answer, tuple(probabilities), tuple(is_exact))

    @property
    def end_token_id(self) -> int:
        """The token that ends a turn."""
        return self.tokenizer.eos_token_id

    def _frame(self, with_image: bool) -> tuple[str, str]:
        if with_image not in self._frames:
            before, after = render(self.processor, _TEXT_SLOT, with_image).split(_TEXT_SLOT)
            self._frames[with_image] = (before, after)
        return self._frames[with_image]

    def trusted_ids(self, text: str) -> list[int]:
        """Return the tokens of a prompt of this project about an image, with one image token."""
        return prompt_beginning_ids(self.tokenizer, render(self.processor, text))

    def data_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that may hold anything, none of them special."""
        text = text.encode("utf-8", "replace").decode()  # a tokenizer refuses half of a surrogate pair
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = set(self.tokenizer.all_special_ids)
        return [token for token in ids if token not in special]
