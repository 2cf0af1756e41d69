"""SmolLM2 writes the sentences of the English demo, round after round; a stopped round begins again, and ends alike."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.sentences import Request, list_requests, make_key, show_examples
from emor3_trl.demo.texts import FEELINGS
from emor3_trl.demo.worlds import WORLDS
from emor3_trl.engines.opening import open_llm
from emor3_trl.files import read_mapping, write_json

CHUNK = 64  # prompts in a call
PROMPT_TOKENS, SENTENCE_TOKENS = 448, 32
# Prompts, how many continuations of each, a seed: the continuations
Writer = Callable[[Sequence[str], int, int], list[list[str]]]


@dataclass(frozen=True)
class WritingPlan:
    """How much is written.

    Args:
        rounds: at most so many; what has sentences enough is asked for no more.
        samples: continuations of each prompt in a round.
        per_trigger: sentences about a look with a detail that are enough.
        per_emotion: the same for a feeling, and for a conclusion.
        temperature: of sampling.
    """

    rounds: int = 3
    samples: int = 6
    per_trigger: int = 3
    per_emotion: int = 24
    temperature: float = 0.8


@dataclass
class Sentences:
    """What was written, by what it is about: triggers by look and detail (`make_key`), the rest by emotion."""

    triggers: dict[str, list[str]] = field(default_factory=dict)
    feelings: dict[str, list[str]] = field(default_factory=dict)
    conclusions: dict[str, list[str]] = field(default_factory=dict)

    def add(self, request: Request, texts: Iterable[str], enough: int) -> int:
        """Keep what a request accepts of some texts, until there is enough; return how many it accepted."""
        kept = getattr(self, request.kind).setdefault(request.key, [])
        accepted = [sentence for sentence in map(_tidy, texts) if request.accepts(sentence)]
        kept += [sentence for sentence in dict.fromkeys(accepted) if sentence not in kept]
        del kept[enough:]
        return len(accepted)

    def count(self, request: Request) -> int:
        """Return how many sentences a request has."""
        return len(getattr(self, request.kind).get(request.key, ()))

    def find_pairs(self, drawing: Drawing) -> list[tuple[list[str], list[str]]]:
        """Return sentences that are true of a drawing, each time with others that differ in the look alone.

        The other look stands for another emotion of the drawing's world; the detail is the same.
        """
        looks = WORLDS[drawing.world].looks
        others = [look for emotion, group in looks.items() if emotion != drawing.emotion for look in group]
        pairs = [
            (self.triggers.get(make_key(drawing.look, detail)), self.triggers.get(make_key(look, detail)))
            for detail in drawing.details.values()
            for look in others
        ]
        return [(true, false) for true, false in pairs if true and false]

    def check(self, drawings: Iterable[Drawing], fewest: int) -> None:
        """Make sure that there is enough to say.

        Args:
            drawings: that are to be told.
            fewest: sentences that each emotion needs.

        Raises:
            ValueError: if a drawing has no pair of sentences, or an emotion too few of them.
        """
        untold = {drawing.look for drawing in drawings if not self.find_pairs(drawing)}
        short = {
            key for pool in (self.feelings, self.conclusions) for key in FEELINGS if len(pool.get(key, ())) < fewest
        }
        if untold or short:
            raise ValueError(
                f"SmolLM2 wrote too few sentences that hold about {', '.join(sorted(untold | short))}. "
                "Raise --samples or --rounds, or take another --seed."
            )


def write_sentences(
    path: Path, seed: int, plan: WritingPlan, open_writer: Callable[[], AbstractContextManager[Writer]]
) -> Sentences:
    """Have all sentences written, and keep them in a file after each round.

    Args:
        path: the JSON file. A finished one is read; one of fewer rounds is gone on with.
        seed: of what is asked and drawn.
        plan: how much.
        open_writer: gives what continues prompts; it is opened only where something is left to write.

    Raises:
        FileExistsError: if the file holds sentences of another seed or plan.
    """
    settings: dict[str, Any] = {"seed": seed, "samples": plan.samples, "rounds": plan.rounds}
    settings |= {"enough": [plan.per_trigger, plan.per_emotion], "temperature": plan.temperature}
    record: dict[str, Any] = {"settings": settings, "round": 0, "accepted": {}}
    if path.exists():
        record = read_mapping(path, "Delete it.")
    if record["settings"] != settings:
        raise FileExistsError(
            f"'{path}' holds sentences that were asked for otherwise. Delete that file, or take another --output_dir."
        )
    sentences = Sentences(**record.get("sentences", {}))
    if record["round"] >= plan.rounds:
        return sentences
    with open_writer() as write:
        for number in range(record["round"], plan.rounds):
            accepted = _write_round(write, sentences, seed, number, plan)
            record = {**record, "round": number + 1, "accepted": {**record["accepted"], str(number + 1): accepted}}
            write_json(path, {**record, "sentences": vars(sentences)})
    return sentences


@contextmanager
def open_smollm2(model_dir: Path, temperature: float) -> Iterator[Writer]:
    """Give a writer: SmolLM2 in vLLM, with the graft's folder, which says the same about a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with open_llm(str(model_dir), torch.float32, PROMPT_TOKENS, SENTENCE_TOKENS, 0) as llm:
        writer = _VLLMWriter(llm, tokenizer, temperature)
        try:
            yield writer
        finally:
            del writer.llm, llm  # who opened it may hold the writer longer, and an engine has to be freed


class _VLLMWriter:
    """A `Writer` on a `vllm.LLM`."""

    def __init__(self, llm: Any, tokenizer: Any, temperature: float) -> None:
        self.llm, self.tokenizer, self.temperature = llm, tokenizer, temperature

    def __call__(self, prompts: Sequence[str], samples: int, seed: int) -> list[list[str]]:
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()  # what a call finds in it must not depend on the calls before it
        params = [
            SamplingParams(
                n=samples,
                temperature=self.temperature,
                max_tokens=SENTENCE_TOKENS,
                stop=["\n"],
                seed=(seed + row) * samples,  # a request's continuations count up from it
            )
            for row in range(len(prompts))
        ]
        inputs = [{"prompt_token_ids": self.tokenizer(prompt)["input_ids"]} for prompt in prompts]
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        return [[completion.text for completion in output.outputs] for output in outputs]


def _write_round(write: Writer, sentences: Sentences, seed: int, number: int, plan: WritingPlan) -> list[int]:
    """Ask once for all that has too few sentences; return how many were accepted, and of how many."""
    rng = random.Random(f"sentences-{seed}-{number}")
    enough = {"triggers": plan.per_trigger, "feelings": plan.per_emotion, "conclusions": plan.per_emotion}
    shown = {kind: show_examples(kind, rng) for kind in enough}
    asked = [
        (request, request.write_prompt(rng, shown[request.kind]))
        for request in list_requests()
        if sentences.count(request) < enough[request.kind]
        for _ in range(request.asks)
    ]
    accepted = 0
    for first in tqdm(range(0, len(asked), CHUNK), desc=f"SmolLM2 writes, round {number + 1}", unit="call"):
        chunk = asked[first : first + CHUNK]
        texts = write([prompt for _, prompt in chunk], plan.samples, seed + number * 100_000 + first)
        for (request, _), continuations in zip(chunk, texts, strict=True):
            accepted += sentences.add(request, continuations, enough[request.kind])
    return [accepted, len(asked) * plan.samples]


def _tidy(text: str) -> str:
    return " ".join(text.split())
