"""SmolLM2 answers questions, and leans towards the words that the answer should have.

Left to itself it forgets half of what it was told. Each word of the notes is made likelier until it is written; which
sentence the words stand in is up to the model.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache, LlamaForCausalLM

from emor3_trl.demo.sentences import Answer, Ask
from emor3_trl.demo.smollm2 import build_smollm2_processor, load_smollm2

ANSWER_TOKENS = 32
LEAN = 2.0  # on the logit of a word that is not written yet
TEMPERATURE = 0.8
LIKELIEST = 40  # tokens that are drawn from


def open_smollm2() -> "LeaningWriter":
    """Return a writer that is SmolLM2 itself."""
    return LeaningWriter(load_smollm2(), build_smollm2_processor().tokenizer)


class LeaningWriter:
    """A `writing.Writer`.

    Args:
        model: SmolLM2.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: LlamaForCausalLM, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), *tokenizer("\n")["input_ids"]]

    @torch.inference_mode()
    def __call__(self, shown: str, asks: Sequence[Ask], samples: int, seed: int) -> list[list[Answer]]:
        """Return so many answers to each question; what is before an answer is computed once."""
        rows = [ask for ask in asks for _ in range(samples)]
        generator = torch.Generator().manual_seed(seed)
        before = self.tokenizer(shown, return_tensors="pt")["input_ids"]  # (1, P)
        cache = self.model(before, past_key_values=DynamicCache()).past_key_values
        cache.batch_repeat_interleave(len(asks))
        inputs = self.tokenizer([ask.text for ask in asks], padding=True, padding_side="left", return_tensors="pt")
        mask = torch.cat([torch.ones(len(asks), before.shape[1], dtype=torch.long), inputs["attention_mask"]], dim=1)
        logits = self._read_on(inputs["input_ids"], mask, cache).repeat_interleave(samples, dim=0)  # (B, V)
        cache.batch_repeat_interleave(samples)
        mask = mask.repeat_interleave(samples, dim=0)
        leaning, opening = (self._find_words(rows, opens) for opens in (False, True))  # (B, words), a token, or -1
        written = torch.empty(len(rows), 0, dtype=torch.long)
        likelihoods = torch.empty(len(rows), 0)
        for _ in range(ANSWER_TOKENS):
            done = (leaning[:, :, None] == written[:, None, :]) | (opening[:, :, None] == written[:, None, :])
            tokens = self._draw(self._lean(logits, leaning, done.any(dim=2)), generator)  # (B, 1)
            written = torch.cat([written, tokens], dim=1)
            likelihoods = torch.cat([likelihoods, logits.log_softmax(dim=1).gather(1, tokens)], dim=1)
            if torch.isin(written, torch.tensor(self.ends)).any(dim=1).all():
                break
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            logits = self._read_on(tokens, mask, cache)
        answers = list(map(self._read, written.tolist(), likelihoods.tolist()))
        return [answers[first : first + samples] for first in range(0, len(answers), samples)]

    def _read_on(self, tokens: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Return the logits after more tokens, whose keys and values come into the cache."""
        places = (mask.cumsum(dim=1) - 1)[:, -tokens.shape[1] :].clamp(min=0)
        now = {"attention_mask": mask, "position_ids": places, "past_key_values": cache, "logits_to_keep": 1}
        return self.model(tokens, **now).logits[:, -1]

    def _find_words(self, rows: Sequence[Ask], opens: bool) -> torch.Tensor:
        """Return the first token of each word that a row leans towards, in a sentence or where it opens one."""
        written = [[word.capitalize() if opens else f" {word}" for word in ask.words] for ask in rows]
        found = [[self.tokenizer(word)["input_ids"][0] for word in words] for words in written]
        width = max(map(len, found))
        return torch.tensor([tokens + [-1] * (width - len(tokens)) for tokens in found])

    @staticmethod
    def _lean(logits: torch.Tensor, leaning: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Return logits with which the words that are not done yet are likelier."""
        bias = torch.full(leaning.shape, LEAN).masked_fill(done | (leaning < 0), 0.0)
        # A word that stands twice in the notes counts once
        return logits + torch.zeros_like(logits).scatter_reduce(1, leaning.clamp(min=0), bias, "amax")

    @staticmethod
    def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        likeliest = logits.topk(LIKELIEST, dim=1)
        chosen = torch.multinomial(F.softmax(likeliest.values / TEMPERATURE, dim=1), 1, generator=generator)
        return likeliest.indices.gather(1, chosen)

    def _read(self, tokens: list[int], likelihoods: list[float]) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return Answer(self.tokenizer.decode(tokens[:end]), statistics.mean(likelihoods[: end + 1]))
