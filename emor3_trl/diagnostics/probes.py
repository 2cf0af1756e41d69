"""Probes: questions whose right answer is known, put to the judge that the policy is to itself.

Reflection rewards what the policy answers about its own steps, so a policy may learn to answer what pays. Two probes
show it, on the completions of a rollout and on the engine that has just reflected:

- the consistency question about *another* image. A judge that looks at the image answers No; one that has learned that
  Yes pays answers Yes to anything;
- the coherence question with the labels in steps 1 and 2 masked. Steps that describe an emotion still lead to it; steps
  that only name it lead nowhere.

Nothing is drawn, and answers are greedy: a run with probes ends in the same weights as one without.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from emor3_trl.emotions import LabelSpace
from emor3_trl.engines.engine import Engine, Question
from emor3_trl.reflection import (
    Reflection,
    choose_other_images,
    coherence_question,
    consistency_question,
    mask_thinking,
)
from emor3_trl.thinking import StructuredThinking, parse, says_something


def ask_probes(
    engine: Engine,
    images: Sequence[Any | None],
    completions: Sequence[str],
    label_spaces: Sequence[str | Sequence[str] | LabelSpace],
    reflections: Sequence[Reflection],
    emotions: Sequence[str | None],
    masked_coherence: bool = False,
) -> dict[str, float]:
    """Ask both probes about each completion that was reflected on, in one call of the engine.

    Args:
        engine: with the policy's current weights.
        images: the image of each completion's prompt; completions of a group share the object.
        completions: N completions.
        label_spaces: their label spaces.
        reflections: what the policy has answered about them.
        emotions: the ground truth, so that the other image is one of another emotion; None where it is not known.
        masked_coherence: whether the reflection has read masked steps; the probe then asks about the steps as they are.

    Returns:
        `diagnostics/shuffled_yes`: the share of Yes about another image; `diagnostics/yes_gap`: the share of Yes about
        the completions' own images, minus that; `diagnostics/masked_coherence`: the share of completions from which the
        same emotion is read once the labels are masked; `diagnostics/probe_requests` and `diagnostics/probe_seconds`.
        A number that has nothing to be computed from, as where all completions are about one image, is left out.
    """
    start = perf_counter()
    questions: dict[Any, Question] = {}
    shuffled: list[Any] = []  # keys of the consistency questions
    own_yes: list[bool] = []
    masked: list[tuple[Any | None, str]] = []  # key of the coherence question, None if nothing is masked; the answer

    def ask(question: Question) -> Any:
        key = (question.text, question.choices, id(question.image))
        questions.setdefault(key, question)
        return key

    others = choose_other_images(images, emotions, same_emotion=False)
    for completion, space, reflection, other in zip(completions, label_spaces, reflections, others, strict=True):
        thinking = parse(completion)
        if thinking is None or not says_something(thinking.trigger):
            continue
        if reflection.consistency_answer is not None and other is not None:
            shuffled.append(ask(consistency_question(thinking, other)))
            own_yes.append(reflection.consistency_answer == "Yes")
        if reflection.coherence_answer is not None:
            question = _ask_again(thinking, LabelSpace.of(space).labels, masked_coherence)
            masked.append((None if question is None else ask(question), reflection.coherence_answer))
    # Ranks that hold one engine together call it together, with questions or without
    asks = bool(questions) or engine.group is not None
    answers = dict(zip(questions, engine.choose(list(questions.values()))[0], strict=True)) if asks else {}
    metrics = {"probe_requests": float(len(questions)), "probe_seconds": perf_counter() - start}
    if shuffled:
        metrics["shuffled_yes"] = sum(answers[key] == "Yes" for key in shuffled) / len(shuffled)
        metrics["yes_gap"] = sum(own_yes) / len(own_yes) - metrics["shuffled_yes"]
    if masked:
        kept = [key is None or answers[key] == answer for key, answer in masked]
        metrics["masked_coherence"] = sum(kept) / len(kept)
    return {f"diagnostics/{name}": value for name, value in metrics.items()}


def _ask_again(thinking: StructuredThinking, labels: tuple[str, ...], was_masked: bool) -> Question | None:
    """Return the coherence question about masked steps, or unmasked if these were asked about; None if they are one."""
    masked = mask_thinking(thinking, labels, with_kin=was_masked)
    return coherence_question(thinking if was_masked else masked, labels) if masked != thinking else None
