"""SmolLM2 writes the sentences of the English demo, round after round; a stopped round begins again, and ends alike."""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.sentences import Answer, Ask, Request, list_mistaken_keys, list_requests, show_examples
from emor3_trl.files import read_mapping, write_json

CHUNK = 16  # questions in a call
# The turns before, the questions, how many answers to each, a seed: the answers
Writer = Callable[[str, Sequence[Ask], int, int], list[list[Answer]]]


@dataclass(frozen=True)
class WritingPlan:
    """How much is written.

    Args:
        rounds: at most so many; what has sentences enough is asked for no more.
        samples: answers to each question in a round.
        per_trigger: sentences about a look with a detail that are enough; the likeliest are kept.
        per_other: the same for the feeling of an emotion, and for a mood.
    """

    rounds: int = 2
    samples: int = 8
    per_trigger: int = 3
    per_other: int = 24


@dataclass
class Sentences:
    """What was written, by what it is about: look and detail (`make_key`), emotion, and mood (`name_mood`).

    `likelihoods` has the `Answer.likelihood` of each sentence that was accepted.
    """

    triggers: dict[str, list[str]] = field(default_factory=dict)
    feelings: dict[str, list[str]] = field(default_factory=dict)
    conclusions: dict[str, list[str]] = field(default_factory=dict)
    likelihoods: dict[str, float] = field(default_factory=dict)

    def add(self, request: Request, answers: Iterable[Answer], enough: int) -> int:
        """Keep the likeliest of what a request has and of what it accepts; return how many it accepted."""
        told = getattr(self, request.kind)
        accepted = []
        for answer in answers:
            sentence = " ".join(answer.text.split())
            if request.accepts(sentence):
                accepted.append(sentence)
                self.likelihoods.setdefault(sentence, round(answer.likelihood, 2))
        sentences = dict.fromkeys([*told.get(request.key, ()), *accepted])
        told[request.key] = sorted(sentences, key=lambda sentence: -self.likelihoods[sentence])[:enough]
        return len(accepted)

    def count(self, request: Request) -> int:
        """Return how many sentences a request has."""
        return len(getattr(self, request.kind).get(request.key, ()))

    def find_pairs(self, drawing: Drawing) -> list[tuple[str, str]]:
        """Return keys of sentences that are true of a drawing, each with one that differs in the look alone."""
        return [pair for pair in list_mistaken_keys(drawing) if all(self.triggers.get(key) for key in pair)]

    def check(self, drawings: Collection[Drawing], fewest: int) -> None:
        """Make sure that there is enough to say.

        Args:
            drawings: what may be told. Some may have no sentence, but not all of a look in a world.
            fewest: sentences that each emotion and each mood needs.

        Raises:
            ValueError: if a look of a world has no pair of sentences, or an emotion or a mood too few of them.
        """
        told = {(drawing.world, drawing.look): False for drawing in drawings}
        told |= {(drawing.world, drawing.look): True for drawing in drawings if self.find_pairs(drawing)}
        untold = {f"{look} in {world}" for (world, look), known in told.items() if not known}
        others = [request for request in list_requests() if request.kind != "triggers"]
        short = {request.key for request in others if self.count(request) < fewest}
        if untold or short:
            raise ValueError(
                f"SmolLM2 wrote too few sentences that hold about {', '.join(sorted(untold | short))}. "
                "Delete sentences.json, and raise --samples or --rounds, or take another --seed."
            )


def write_sentences(path: Path, seed: int, plan: WritingPlan, open_writer: Callable[[], Writer]) -> Sentences:
    """Have all sentences written, and keep them in a file after each round.

    Args:
        path: the JSON file. A finished one is read; one of fewer rounds is gone on with.
        seed: of what is asked and drawn.
        plan: how much.
        open_writer: gives what answers; it is called only where something is left to write.

    Raises:
        FileExistsError: if the file holds sentences of another seed or plan.
    """
    settings = {"seed": seed, **asdict(plan)}
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
    write = open_writer()
    for number in range(record["round"], plan.rounds):
        accepted = _write_round(write, sentences, seed, number, plan)
        record = {**record, "round": number + 1, "accepted": {**record["accepted"], str(number + 1): accepted}}
        write_json(path, {**record, "sentences": vars(sentences)})
    return sentences


def _write_round(write: Writer, sentences: Sentences, seed: int, number: int, plan: WritingPlan) -> list[int]:
    """Ask once for all that has too few sentences; return how many were accepted, and of how many."""
    rng = random.Random(f"sentences-{seed}-{number}")
    enough = {"triggers": plan.per_trigger, "feelings": plan.per_other, "conclusions": plan.per_other}
    chunks = []
    for kind in enough:
        shown = show_examples(kind, rng)
        requests = [row for row in list_requests() if row.kind == kind and sentences.count(row) < enough[kind]]
        asked = [(request, request.ask(rng)) for request in requests for _ in range(request.asks)]
        chunks += [(shown, asked[first : first + CHUNK]) for first in range(0, len(asked), CHUNK)]
    accepted, tried = 0, 0
    for index, (shown, asked) in enumerate(tqdm(chunks, desc=f"SmolLM2 writes, round {number + 1}", unit="call")):
        texts = write(shown, [ask for _, ask in asked], plan.samples, seed + number * 10_000 + index)
        for (request, _), answers in zip(asked, texts, strict=True):
            accepted += sentences.add(request, answers, enough[request.kind])
            tried += len(answers)
    return [accepted, tried]
