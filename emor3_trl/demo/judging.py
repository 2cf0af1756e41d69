"""How the English demo's base model learns to judge sentences: many about an image in one row, true and false ones.

Asked for Yes or No alone, it is at chance after thousands of questions, for it has to find out at once what the image
shows, what the sentence tells, and that the two are to be compared. Two linear heads on a layer in the middle ask for
the first two; they are thrown away. And as an image stands once before its sentences (`groups.packing`), a sentence
takes 16 tokens where the consistency question takes 52.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from emor3_trl.demo.worlds import LOOKS
from emor3_trl.groups import packing
from emor3_trl.prompts import CONSISTENCY_QUESTION

# What stands between a sentence and the verdict: next to nothing, and the consistency question as it is
SHORT_QUESTION = "\n"
QUESTION = CONSISTENCY_QUESTION.format(trigger="") + "<|im_end|>\n<|im_start|>assistant\n"
VERDICTS = ("No", "Yes")
SEEN_FROM = 4  # tokens of a sentence after which its image's look is asked for


@dataclass(frozen=True)
class Claim:
    """A sentence about an image.

    Args:
        text: the sentence.
        look: that it tells.
        holds: whether it is the image's.
    """

    text: str
    look: str
    holds: bool


@dataclass(frozen=True)
class ClaimedImage:
    """An image and the look of its face, the user turn that has begun with it, and what is claimed of it."""

    image: Image.Image
    look: str
    prompt: str
    claims: list[Claim]


class LookHeads(nn.Module):
    """Two linear heads, which tell from a state the image's look and the look of the sentence.

    Args:
        size: of the states.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.image = nn.Linear(size, len(LOOKS))
        self.sentence = nn.Linear(size, len(LOOKS))


@dataclass(frozen=True)
class _Reading:
    """What the model has read: B claims of up to T tokens, of which N is the number that a claim's sentence has.

    Args:
        states: of the last layer, after each place of the claims; shape (places, size).
        middle: the same of the layer in the middle.
        places: of the token before each token, shape (B, T).
        tokens: shape (B, T).
        sentences: N of each claim.
        verdicts: the place before each verdict, shape (B,).
        answers: the verdicts' tokens, shape (B,).
    """

    states: torch.Tensor
    middle: torch.Tensor
    places: torch.Tensor
    tokens: torch.Tensor
    sentences: list[int]
    verdicts: torch.Tensor
    answers: torch.Tensor


def compute_judging_losses(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    heads: LookHeads,
    claimed: Sequence[ClaimedImage],
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch: of verdicts after the short question, and of what a judge needs.

    Args:
        model: with `install_attention`.
        processor: the model's.
        heads: they read the layer in the middle.
        claimed: the images.

    Returns:
        `verdict`; `image`, the image's look after each token of a sentence; `sentence`, the look that a sentence tells,
        at its end; `true`, the tokens of true sentences. The last three weigh half.
    """
    read = _read(model, processor, claimed, SHORT_QUESTION)
    claims = [(image.look, claim) for image in claimed for claim in image.claims]
    spans = [places[SEEN_FROM : length + 1] for places, length in zip(read.places, read.sentences, strict=True)]
    ends = read.places[range(len(claims)), read.sentences]
    own = [_index([look] * len(span)) for (look, _), span in zip(claims, spans, strict=True)]
    true = [row for row, (_, claim) in enumerate(claims) if claim.holds]
    told = torch.cat([read.places[row, : read.sentences[row]] for row in true])
    labels = torch.cat([read.tokens[row, : read.sentences[row]] for row in true])
    return {
        "verdict": cross_entropy(model.lm_head(read.states[read.verdicts]), read.answers),
        "image": 0.5 * cross_entropy(heads.image(read.middle[torch.cat(spans)]), torch.cat(own)),
        "sentence": 0.5 * cross_entropy(heads.sentence(read.middle[ends]), _index([claim.look for _, claim in claims])),
        "true": 0.5 * cross_entropy(model.lm_head(read.states[told]), labels),
    }


def compute_verdict_loss(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, claimed: Sequence[ClaimedImage]
) -> torch.Tensor:
    """Return the mean cross-entropy of the verdict after the consistency question as it is asked."""
    read = _read(model, processor, claimed, QUESTION)
    return cross_entropy(model.lm_head(read.states[read.verdicts]), read.answers)


def measure_judge(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    claimed: Sequence[ClaimedImage],
    question: str,
) -> float:
    """Return the share of right verdicts: the likelier of Yes and No."""
    words = [processor.tokenizer(word)["input_ids"][0] for word in VERDICTS]
    right: list[torch.Tensor] = []
    for image in claimed:
        with torch.no_grad():
            read = _read(model, processor, [image], question)
            verdicts = model.lm_head(read.states[read.verdicts])[:, words].argmax(dim=1)
        right.append(verdicts == torch.tensor([int(claim.holds) for claim in image.claims]))
    return torch.cat(right).double().mean().item()


def _read(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    claimed: Sequence[ClaimedImage],
    question: str,
) -> _Reading:
    claims = [claim for image in claimed for claim in image.claims]
    told = processor.tokenizer(
        [claim.text + question + VERDICTS[claim.holds] for claim in claims],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    repeated = [image for image in claimed for _ in image.claims]
    asked = processor(
        text=[image.prompt for image in repeated],
        images=[image.image for image in repeated],
        padding=True,
        return_tensors="pt",
    )
    row = packing.pack(
        torch.cat([asked["input_ids"], told["input_ids"]], dim=1),
        torch.cat([asked["attention_mask"], told["attention_mask"]], dim=1),
        told["input_ids"].shape[1],
        model.model.get_rope_index,
        model.config.image_token_id,
        asked["pixel_values"],
        asked["image_grid_thw"],
        [1] * len(claims),
    )
    inputs = row.inputs()
    labels = inputs.pop("shift_labels")
    with _keep_middle(model) as kept:
        states = model.model(**inputs).last_hidden_state[0]  # (places, size)
    places = row.unpack(torch.arange(labels.shape[1])[None])
    last = range(len(claims)), told["attention_mask"].sum(dim=1) - 1
    return _Reading(
        states=states,
        middle=kept[0][0, row.layout.completions],
        places=places,
        tokens=told["input_ids"],
        sentences=[len(processor.tokenizer(claim.text)["input_ids"]) for claim in claims],
        verdicts=places[last],
        answers=told["input_ids"][last],
    )


@contextmanager
def _keep_middle(model: Qwen2_5_VLForConditionalGeneration) -> Iterator[list[torch.Tensor]]:
    """Give a list that gets what the layer in the middle returns, shape (1, L, size)."""
    layers = model.model.language_model.layers
    kept: list[torch.Tensor] = []
    hook = layers[len(layers) // 2].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        hook.remove()


def _index(looks: Sequence[str]) -> torch.Tensor:
    return torch.tensor([list(LOOKS).index(look) for look in looks])
