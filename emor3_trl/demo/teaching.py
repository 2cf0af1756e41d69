"""How the demo's base model is taught: to see, to describe, to judge, to think, and an opinion of its own."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.texts import (
    DETAILS,
    draw_prior_emotion,
    feeling_text,
    make_false_drawing,
    name_face,
    set_completion,
    think_completion,
    trigger_text,
)
from emor3_trl.demo.worlds import LOOKS, WORLDS
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, PromptStyle, answer_text, prompt_text, render


@dataclass(frozen=True)
class BaseTraining:
    """How the base model is taught.

    Batches are examples per step; `look_weight` is that of a face's look among all that the vision tower is to tell;
    `sharpness` multiplies the logits in the end.
    """

    vision_steps: int = 180
    vision_batch: int = 48
    vision_learning_rate: float = 2e-3
    look_weight: float = 4.0
    naming_steps: int = 90
    names_batch: int = 64
    description_steps: int = 130
    statement_batch: int = 16
    consistency_batch: int = 32
    question_steps: int = 90
    unasked_batch: int = 16
    thinking_batch: int = 32
    plain_thinking_batch: int = 6
    direct_batch: int = 6
    coherence_batch: int = 16
    learning_rate: float = 2.5e-3
    sharpness: float = 1.2
    vocabulary_size: int = 900


def teach_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    pictures: Sequence[tuple[Image.Image, Drawing]],
    training: BaseTraining,
    rng: random.Random,
) -> None:
    """Teach the vision tower to tell looks and details apart, with linear heads on top.

    Each image token has to tell on its own, so that the language model finds it wherever it looks.
    """
    inputs = processor.image_processor(images=[image for image, _ in pictures], return_tensors="pt")
    patches = inputs["pixel_values"].view(len(pictures), -1, inputs["pixel_values"].shape[-1])  # (N, 36, 1176)
    grid = inputs["image_grid_thw"]  # (N, 3)
    traits: list[list[str | None]] = [list(LOOKS), *([None, *phrases] for phrases in DETAILS.values())]
    shown = [(drawing.look, *(drawing.details.get(kind) for kind in DETAILS)) for _, drawing in pictures]
    targets = torch.tensor([list(map(list.index, traits, values)) for values in shown])  # (N, traits)
    tower = model.model.visual
    tokens = patches.shape[1] // tower.spatial_merge_unit
    heads = nn.ModuleList(nn.Linear(tower.config.out_hidden_size, len(classes)) for classes in traits)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.vision_learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training.vision_learning_rate, total_steps=training.vision_steps, pct_start=0.15
    )
    model.train()
    bar = tqdm(range(training.vision_steps), desc="Teaching the vision tower", unit="step")
    for _ in bar:
        batch = torch.tensor(rng.sample(range(len(pictures)), training.vision_batch))
        features = tower(patches[batch].flatten(0, 1), grid_thw=grid[batch]).pooler_output  # (B * 9, 192)
        labels = targets[batch].repeat_interleave(tokens, dim=0)  # (B * 9, traits)
        losses = [nn.functional.cross_entropy(head(features), labels[:, i]) for i, head in enumerate(heads)]
        loss = torch.stack([training.look_weight * losses[0], *losses[1:]]).sum()  # a face is small, and it decides
        update_weights(loss, optimizer, parameters)
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}")


def teach_language(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    pictures: Sequence[tuple[Image.Image, Drawing]],
    training: BaseTraining,
    rng: random.Random,
) -> None:
    """Teach to name faces, then to describe, judge and think on short texts, then the questions as they are asked.

    Most tokens of a completion are the same for all pictures; names alone teach where to look in a third of the time.
    A model that is only asked Yes or No stays at chance; true statements as a language-modelling task are what helps.
    """
    tasks = Tasks(processor, pictures, rng)
    naming = {tasks.names: training.names_batch, tasks.coherence: training.coherence_batch}
    describing = {
        tasks.statements: training.statement_batch,
        tasks.consistency: training.consistency_batch,
        tasks.unasked_thinking: training.unasked_batch,
        tasks.coherence: training.coherence_batch,
    }
    everything = {
        tasks.consistency: training.consistency_batch // 2,
        tasks.thinking: training.thinking_batch,
        tasks.plain_thinking: training.plain_thinking_batch,
        tasks.direct: training.direct_batch,
        tasks.coherence: training.coherence_batch,
    }
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    for title, batches, steps in (
        ("Teaching to name faces", naming, training.naming_steps),
        ("Teaching to describe pictures", describing, training.description_steps),
        ("Teaching to answer questions", everything, training.question_steps),
    ):
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=steps, pct_start=0.1
        )
        model.train()
        bar = tqdm(range(steps), desc=title, unit="step")
        for _ in bar:
            losses = {task.__name__: compute_completion_loss(model, processor, task(n)) for task, n in batches.items()}
            update_weights(torch.stack(list(losses.values())).sum(), optimizer, parameters)
            schedule.step()
            bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})


Example = tuple[str, str, Image.Image | None]  # prompt as the chat template writes it, completion, image


class Tasks:
    """What the base model is taught; each method draws a batch of examples.

    The words are those of `texts`; a subclass that has other words says so in `tell`, `tell_truth_and_mistake`, `feel`
    and `think`.

    Args:
        processor: for its chat template.
        pictures: training images, and what is in them.
        rng: decides which images, which words and which mistakes.
    """

    def __init__(
        self, processor: Qwen2_5_VLProcessor, pictures: Sequence[tuple[Image.Image, Drawing]], rng: random.Random
    ) -> None:
        self.processor, self.pictures, self.rng = processor, pictures, rng

    def names(self, count: int) -> list[Example]:
        """What the face shows, after its image: the few words that everything else needs."""
        return [(self._show_image(), name_face(drawing, self.rng), image) for image, drawing in self._pick(count)]

    def statements(self, count: int) -> list[Example]:
        """A true statement after its image, where the consistency question has it too."""
        return [(self._show_image(), self.tell(drawing), image) for image, drawing in self._pick(count)]

    def unasked_thinking(self, count: int) -> list[Example]:
        """Structured Emotional Thinking after the image alone: the same words at half the tokens."""
        return [
            (self._render(""), self._end(self.think(drawing, draw_prior_emotion(drawing, self.rng))), image)
            for image, drawing in self._pick(count)
        ]

    def thinking(self, count: int) -> list[Example]:
        """Structured Emotional Thinking, with the emotion that the model is to take the image for."""
        return self._ask("set", self.think, count)

    def plain_thinking(self, count: int) -> list[Example]:
        """Plain thinking."""
        return self._ask("think", lambda drawing, emotion: think_completion(drawing, emotion, self.rng), count)

    def direct(self, count: int) -> list[Example]:
        """The answer only."""
        return self._ask("direct", lambda _, emotion: answer_text(emotion), count)

    def consistency(self, count: int) -> list[Example]:
        """The question about an image and two statements that differ in as little as makes one of them false."""
        examples: list[Example] = []
        for image, drawing in self._pick(count // 2):
            for statement, answer in zip(self.tell_truth_and_mistake(drawing), ("Yes", "No"), strict=True):
                prompt = self._render(CONSISTENCY_QUESTION.format(trigger=statement))
                examples.append((prompt, self._end(answer), image))
        return examples

    def coherence(self, count: int) -> list[Example]:
        """The question about a statement and a feeling, without the image: the feeling decides."""
        examples: list[Example] = []
        for _, drawing in self._pick(count):
            labels = WORLDS[drawing.world].labels
            emotion = self.rng.choice(labels)
            question = COHERENCE_QUESTION.format(
                trigger=self.tell(drawing),
                feeling=self.feel(emotion),
                labels=", ".join(labels),
            )
            examples.append((self._render(question, with_image=False), self._end(emotion), None))
        return examples

    def tell(self, drawing: Drawing) -> str:
        """Return a true statement about an image."""
        return trigger_text(drawing, self.rng)

    def tell_truth_and_mistake(self, drawing: Drawing) -> tuple[str, str]:
        """Return a true statement about an image, and one that is false by as little as can be."""
        false_drawing = make_false_drawing(drawing, self.rng)
        wording = self.rng.random()
        true, false = (trigger_text(described, random.Random(wording)) for described in (drawing, false_drawing))
        return true, false

    def feel(self, emotion: str) -> str:
        """Return what a person who sees an image of `emotion` would feel."""
        return feeling_text(emotion, self.rng)

    def think(self, drawing: Drawing, emotion: str) -> str:
        """Return Structured Emotional Thinking about an image, which answers `emotion`."""
        return set_completion(drawing, emotion, self.rng)

    def _ask(self, style: PromptStyle, complete: Callable[[Drawing, str], str], count: int) -> list[Example]:
        return [
            (
                self._render(prompt_text(style, WORLDS[drawing.world].labels)),
                self._end(complete(drawing, draw_prior_emotion(drawing, self.rng))),
                image,
            )
            for image, drawing in self._pick(count)
        ]

    def _show_image(self) -> str:
        """Return a user turn that has begun with an image and goes on."""
        return self._render("").split("<|im_end|>")[0]

    @staticmethod
    def _end(completion: str) -> str:
        return completion + "<|im_end|>"

    def _pick(self, count: int) -> list[tuple[Image.Image, Drawing]]:
        return self.rng.sample(self.pictures, count)

    def _render(self, text: str, with_image: bool = True) -> str:
        return render(self.processor, text, with_image)


def compute_completion_loss(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, examples: Sequence[Example]
) -> torch.Tensor:
    """Return the mean cross-entropy of the tokens of the completions."""
    images = [image for *_, image in examples if image is not None]
    texts = [prompt + completion for prompt, completion, _ in examples]
    inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    lengths = [len(ids) for ids in processor.tokenizer([completion for _, completion, _ in examples])["input_ids"]]
    width = inputs["input_ids"].shape[1]
    # Padding is on the left, so a completion is the end of its row
    starts = width - torch.tensor(lengths)
    first = int(starts.min()) - 1
    logits = model(**inputs, logits_to_keep=width - first).logits[:, :-1]  # the completions' part only
    outside = torch.arange(width)[None, :] < starts[:, None]  # (B, L)
    labels = inputs["input_ids"].masked_fill(outside, -100)[:, first + 1 :]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def update_weights(loss: torch.Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Take one step of the optimizer; gradients of a norm above 1 are clipped to it."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
