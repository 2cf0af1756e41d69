"""Parsers against 100,000 mutated completions: no exception, and no format reward that a slow oracle would not give."""

import random
import string
import unicodedata

from emor3_trl.emotions import EMOSET_8, EMOTION6, WEBEMO_7
from emor3_trl.rewards import ReferenceRewards, accuracy_reward, format_reward, reward_functions, think_format_reward
from emor3_trl.thinking import MALFORMED_REASONS, boxed_answer, explain_malformed, parse

TAGS = ["<step1>", "</step1>", "<step2>", "</step2>", "<step3>", "</step3>"]
# fmt: off
PIECES = [
    *TAGS, r"\boxed{awe}", r"\boxed{fear}", r"\boxed{", "\\boxed", r"\text{awe}", "}", "{", "<b>",
    "<think>", "</think>",
    "< step1 >", "<STEP2>", "<step4>", "<|im_end|>", "<", ">", "\\", "\n", " ", "\x00", "\ud800", "\u00a0",
    "😀", ".", "$",
    "Answer: ", "awe", "x" * 70,
]
# fmt: on


def gold(label):
    return [
        "<step1>", "A person laughs.", "</step1>", "\n", "<step2>", "One would smile.", "</step2>", "\n",
        "<step3>", "Positive and excited.", "</step3>", "\n", rf"\boxed{{{label}}}",
    ]  # fmt: skip


def mutate(rng, pieces):
    """Return a completion some edits away from the gold one; the edits move whole pieces or single characters."""
    pieces = list(pieces)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
        kind = rng.randrange(7)
        here, there = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        if kind == 0 and len(pieces) > 1:
            del pieces[here]
        elif kind == 1:
            pieces.insert(there, pieces[here])
        elif kind == 2:
            pieces[here], pieces[there] = pieces[there], pieces[here]
        elif kind == 3:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(PIECES))
        elif kind == 4:
            pieces[here] = pieces[here][: rng.randrange(len(pieces[here]) + 1)]
        elif kind == 5:
            cut = rng.randrange(len(pieces[here]) + 1)
            pieces[here] = pieces[here][:cut] + rng.choice(PIECES) + pieces[here][cut:]
        else:
            pieces[here] = ""
    text = "".join(pieces)
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text) + 1)]
    if rng.random() < 0.1:
        text = "".join(rng.choice([char, char, char, char.upper(), rng.choice(string.printable)]) for char in text)
    return text


def oracle(text):
    """Return whether a completion is well formed, by eating it piece by piece from the left."""

    def eat(rest, piece):
        rest = rest.lstrip()
        return rest[len(piece) :] if rest.startswith(piece) else None

    rest = text
    for number in "123":
        rest = eat(rest, f"<step{number}>")
        if rest is None or f"</step{number}>" not in rest:
            return False
        body, rest = rest.split(f"</step{number}>", 1)
        # Whatever is a tag of the format, or a box, may not stand in a step, however it is spelt
        for place, char in enumerate(body):
            if char == "<" and body[place + 1 :].lstrip("/ \n\t\u00a0").lower().startswith(("step", "think")):
                return False
        if not body.strip() or "\\boxed" in body:
            return False
    lead_in, found, rest = rest.partition("\\boxed{")
    if not found or len(lead_in.strip()) > 60 or "<" in lead_in or ">" in lead_in or "\n" in lead_in.strip():
        return False
    depth, length = 1, 0
    for char in rest:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            break
        length += 1
    inside, after = rest[:length], rest[length + 1 :]
    if depth or not inside.strip() or "\\boxed" in inside or "step" in inside.lower():
        return False
    return all(c.isspace() or c in "$`" or unicodedata.category(c)[0] == "P" for c in after) and not set(after) & set(
        "{}"
    )


def test_mutated_completions_raise_nothing_and_earn_no_format_reward_when_malformed():
    rng = random.Random(20)
    labels = [*EMOSET_8.labels, *EMOTION6.labels, *WEBEMO_7.labels]
    rewarded = 0.0
    for batch in range(100):
        texts = [mutate(rng, gold(rng.choice(labels))) for _ in range(1_000)]
        formats = format_reward(texts)
        for text, reward in zip(texts, formats, strict=True):
            assert not reward or oracle(text), repr(text)
        rewarded += sum(formats)
        accuracies = accuracy_reward(texts, emotion=["awe"] * 1_000, label_space=["emoset_8"] * 1_000)
        for text, reward in zip(texts, accuracies, strict=True):
            assert not reward or EMOSET_8.normalise(boxed_answer(text)) == "awe", repr(text)
        if batch % 10 == 0:
            think_format_reward(texts)
            ReferenceRewards.format_reward(texts)
            ReferenceRewards.accuracy_reward(texts, emotion=["awe"] * 1_000)
    # The fuzz covers both sides: many edits leave a completion well formed
    assert 5_000 < rewarded < 50_000


def test_random_text_of_the_formats_alphabet_is_handled():
    rng = random.Random(21)
    for _ in range(20_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(30)))
        assert parse(text) is None or oracle(text), repr(text)
        assert (explain_malformed(text) is None) == (parse(text) is not None), repr(text)


def test_mutations_reach_the_reasons_for_which_they_have_pieces():
    rng = random.Random(22)
    reasons = {explain_malformed(mutate(rng, gold("awe"))) for _ in range(5_000)}
    assert {None, *MALFORMED_REASONS} - reasons <= {"cut_off", "empty_box"}


def test_the_gold_completion_earns_everything_for_every_label():
    for space in (EMOSET_8, EMOTION6, WEBEMO_7):
        for label in space.labels:
            completion = "".join(gold(label))
            assert oracle(completion)
            for form in (completion, [{"role": "assistant", "content": completion}]):
                for given in (space.name, list(space.labels), space):
                    for variant in ("paper", "reference"):
                        columns = {"emotion": [label], "label_space": [given], "consistency_answer": ["Yes"],
                                   "coherence_answer": [label]}  # fmt: skip
                        functions, _ = reward_functions(variant)
                        assert [function([form], **columns) for function in functions] == [[1.0]] * 4
