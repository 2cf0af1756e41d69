"""The demo's base model: a Qwen2.5-VL of about three million parameters, taught on the spot to think about emotions.

It stands in for a pretrained vision-language model. After about three minutes on two cores it describes what it sees,
writes Structured Emotional Thinking, answers both reflection questions, and holds an opinion of its own about some
faces (`demo_texts.PRIOR`). Nothing here is specific to EMO-R3, and only the training split is used.
"""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from emor3_trl.data import load_split
from emor3_trl.data.demo import EMOTIONS, EXPRESSIONS, HEADS, SHIRTS, Peep, load_drawings, write_demo_data
from emor3_trl.data.demo_texts import (
    every_text,
    false_peep,
    feeling_text,
    prior_emotion,
    set_completion,
    trigger_text,
)
from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION, answer_text, messages, prompt_text
from emor3_trl.thinking import boxed_answer, parse

# Where prepare_data.py puts both
DEMO_DATA, DEMO_BASE = Path("runs/demo/data"), Path("runs/demo/base")

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# One turn after another, without a system prompt; a picture is one placeholder between its two marks
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


@dataclass(frozen=True)
class BaseTraining:
    """How the base model is taught. Batches are examples per step; sharpness multiplies the logits in the end."""

    vision_steps: int = 50
    vision_batch: int = 48
    vision_learning_rate: float = 1e-3
    description_steps: int = 110
    statement_batch: int = 16
    consistency_batch: int = 32
    question_steps: int = 45
    thinking_batch: int = 32
    direct_batch: int = 4
    coherence_batch: int = 8
    learning_rate: float = 2.5e-3
    sharpness: float = 1.2
    vocabulary_size: int = 900


def build_processor(vocabulary_size: int = 900) -> Qwen2_5_VLProcessor:
    """Return a Qwen2.5-VL processor, padding on the left, whose byte-level BPE is trained on the texts of the demo."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokenizer=_train_tokenizer(vocabulary_size),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def build_untrained_model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    """Return a random Qwen2.5-VL of about three million parameters, fp32, with tied embeddings as the 3B model has."""
    tokenizer = processor.tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "initializer_range": 0.05,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 192,
            "fullatt_block_indexes": [1, 3],
            "window_size": 112,
            "initializer_range": 0.05,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="float32",
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=True, temperature=1.0
    )
    return model


def build_demo_model(
    data_dir: str | Path, output_dir: str | Path, seed: int = 0, training: BaseTraining | None = None
) -> dict[str, float]:
    """Build and teach the demo's base model; a finished one of the same seed and settings is kept.

    Args:
        data_dir: folder of `write_demo_data`; the model learns from its train split and is measured on validation.
        output_dir: folder for the checkpoint and its processor.
        seed: of the weights, the texts and the order of examples.
        training: steps, batches and learning rates.

    Returns:
        Measured on validation under the structured prompt: `accuracy` and `format_rate` (greedy),
        `sampled_format_rate`; and `parameters`.

    Raises:
        FileNotFoundError: if `data_dir` is not the demo's data.
        FileExistsError: if `output_dir` holds another model.
    """
    training = training or BaseTraining()
    output_dir = Path(output_dir)
    wanted = {"seed": seed, "training": asdict(training)}
    record_path = output_dir / "base_training.json"
    if record_path.exists():
        record: dict[str, Any] = json.loads(record_path.read_text())
        if all(record[key] == value for key, value in wanted.items()):
            print(f"Reusing the base model in {output_dir} (seed {seed}): {_numbers(record['validation'])}.")
            return dict(record["validation"])
    if output_dir.exists():
        raise FileExistsError(
            f"{output_dir} holds another model than the one of seed {seed}. Choose another --output_dir, or delete "
            "that folder."
        )
    drawings = load_drawings(data_dir)
    train = load_split(data_dir, "train")
    peeps = [drawings[name] for name in train["id"]]

    torch.manual_seed(seed)
    rng = random.Random(seed)
    processor = build_processor(training.vocabulary_size)
    model = build_untrained_model(processor)
    images = [image.convert("RGB") for image in train["image"]]
    teach_vision(model, processor, images, peeps, training, rng)
    teach_language(model, processor, images, peeps, training, rng)
    # Two minutes leave a little probability on every token, which ends in one slip per completion when sampled. A
    # larger final norm is a lower temperature that is part of the weights: T = 1 stays T = 1 for GRPO.
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(training.sharpness)
    rows = load_split(data_dir, "validation")
    validation = measure(model, processor, rows)
    validation["sampled_format_rate"] = measure(model, processor, rows, sample=True)["format_rate"]
    validation["parameters"] = sum(p.numel() for p in model.parameters())

    # A folder of that name is a finished model, whatever interrupts
    temporary = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    processor.save_pretrained(temporary)
    (temporary / record_path.name).write_text(json.dumps({**wanted, "validation": validation}, indent=2))
    temporary.rename(output_dir)
    print(f"Base model in {output_dir}: {_numbers(validation)}.")
    return validation


def ensure_demo(data: str | Path, model: str | Path | None) -> None:
    """Draw the demo's data and build its base model, where a run of the demo needs them and they are missing."""
    if Path(data) != DEMO_DATA:
        return
    if not (DEMO_DATA / "manifest.json").is_file():
        print(f"{DEMO_DATA} is missing: drawing the demo's pictures first", flush=True)
        write_demo_data(DEMO_DATA)
    if model and Path(model) == DEMO_BASE and not DEMO_BASE.is_dir():
        print(f"{DEMO_BASE} is missing: building the demo's base model first (about three minutes)", flush=True)
        build_demo_model(DEMO_DATA, DEMO_BASE)


def teach_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    images: Sequence[Image.Image],
    peeps: Sequence[Peep],
    training: BaseTraining,
    rng: random.Random,
) -> None:
    """Teach the vision tower to tell expressions, heads, shirts, glasses and beards apart, with linear heads on top.

    Each image token on its own has to tell, so that the language model finds it wherever it looks.
    """
    features = processor.image_processor(images=list(images), return_tensors="pt")
    patches = features["pixel_values"].view(len(images), -1, features["pixel_values"].shape[-1])  # (N, 36, 1176)
    grid = features["image_grid_thw"]  # (N, 3)
    expressions = [face for faces in EXPRESSIONS.values() for face in faces]
    targets = torch.tensor(
        [
            (
                expressions.index(p.expression),
                list(HEADS).index(p.head),
                list(SHIRTS).index(p.shirt),
                int(p.glasses is not None),
                int(p.beard is not None),
            )
            for p in peeps
        ]
    )
    tower = model.model.visual
    tokens = patches.shape[1] // tower.spatial_merge_unit
    heads = nn.ModuleList(
        nn.Linear(tower.config.out_hidden_size, classes)
        for classes in (len(expressions), len(HEADS), len(SHIRTS), 2, 2)
    )
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.vision_learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training.vision_learning_rate, total_steps=training.vision_steps, pct_start=0.15
    )
    model.train()
    bar = tqdm(range(training.vision_steps), desc="Teaching the vision tower", unit="step")
    for _ in bar:
        batch = torch.tensor(rng.sample(range(len(images)), training.vision_batch))
        seen = tower(patches[batch].flatten(0, 1), grid_thw=grid[batch]).pooler_output  # (B * 9, 192)
        wanted = targets[batch].repeat_interleave(tokens, dim=0)  # (B * 9, 5)
        loss = torch.stack(
            [nn.functional.cross_entropy(head(seen), wanted[:, i]) for i, head in enumerate(heads)]
        ).sum()
        _update(loss, optimizer, schedule, parameters)
        bar.set_postfix(loss=f"{loss.item():.2f}")


def teach_language(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    images: Sequence[Image.Image],
    peeps: Sequence[Peep],
    training: BaseTraining,
    rng: random.Random,
) -> None:
    """Teach to describe pictures, judge descriptions and think, on short texts, then the questions as they are asked.

    A model that is only asked Yes or No stays at chance; true statements as a language-modelling task are what helps.
    """
    tasks = Tasks(processor, list(zip(images, peeps, strict=True)), rng)
    describing = {
        tasks.statements: training.statement_batch,
        tasks.consistency: training.consistency_batch,
        tasks.unasked_thinking: training.thinking_batch,
        tasks.coherence: training.coherence_batch,
    }
    everything = {
        tasks.consistency: training.consistency_batch // 2,
        tasks.thinking: training.thinking_batch,
        tasks.direct: training.direct_batch,
        tasks.coherence: training.coherence_batch,
    }
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    for title, batches, steps in (
        ("Teaching to describe pictures", describing, training.description_steps),
        ("Teaching to answer questions", everything, training.question_steps),
    ):
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=steps, pct_start=0.1
        )
        model.train()
        bar = tqdm(range(steps), desc=title, unit="step")
        for _ in bar:
            losses = {task.__name__: completion_loss(model, processor, task(n)) for task, n in batches.items()}
            _update(torch.stack(list(losses.values())).sum(), optimizer, schedule, parameters)
            bar.set_postfix({name: f"{loss.item():.2f}" for name, loss in losses.items()})


Example = tuple[str, str, Image.Image | None]  # prompt as the chat template writes it, completion, picture


class Tasks:
    """What the base model is taught; each method draws a batch of examples.

    Args:
        processor: for its chat template.
        pictures: training pictures, and what is in them.
        rng: decides which pictures, which words and which mistakes.
    """

    def __init__(
        self, processor: Qwen2_5_VLProcessor, pictures: list[tuple[Image.Image, Peep]], rng: random.Random
    ) -> None:
        self.processor, self.pictures, self.rng = processor, pictures, rng

    def statements(self, count: int) -> list[Example]:
        """A true statement after its picture, where the consistency question has it too."""
        user_turn = self._prompt("", picture=True).split("<|im_end|>")[0]
        return [(user_turn, trigger_text(peep, self.rng), image) for image, peep in self._pick(count)]

    def unasked_thinking(self, count: int) -> list[Example]:
        """Structured Emotional Thinking after the picture alone: the same words at half the tokens."""
        return self._thinking(count, "")

    def thinking(self, count: int) -> list[Example]:
        """Structured Emotional Thinking, with the emotion that the model is to take the picture for."""
        return self._thinking(count, prompt_text("set", EMOTIONS))

    def _thinking(self, count: int, question: str) -> list[Example]:
        prompt = self._prompt(question, picture=True)
        return [
            (prompt, set_completion(peep, prior_emotion(peep, self.rng), self.rng) + "<|im_end|>", image)
            for image, peep in self._pick(count)
        ]

    def direct(self, count: int) -> list[Example]:
        """The answer only."""
        prompt = self._prompt(prompt_text("direct", EMOTIONS), picture=True)
        return [
            (prompt, answer_text(prior_emotion(peep, self.rng)) + "<|im_end|>", image)
            for image, peep in self._pick(count)
        ]

    def consistency(self, count: int) -> list[Example]:
        """The question about a picture and two statements that differ in as little as makes one of them false."""
        examples: list[Example] = []
        for image, peep in self._pick(count // 2):
            other = false_peep(peep, self.rng)
            wording = self.rng.random()
            for seen, answer in ((peep, "Yes"), (other, "No")):
                statement = trigger_text(seen, random.Random(wording))
                prompt = self._prompt(CONSISTENCY_QUESTION.format(trigger=statement), picture=True)
                examples.append((prompt, answer + "<|im_end|>", image))
        return examples

    def coherence(self, count: int) -> list[Example]:
        """The question about a statement and a feeling, without the picture: the feeling decides."""
        examples: list[Example] = []
        for _, peep in self._pick(count):
            emotion = self.rng.choice(EMOTIONS)
            question = COHERENCE_QUESTION.format(
                trigger=trigger_text(peep, self.rng),
                feeling=feeling_text(emotion, self.rng),
                labels=", ".join(EMOTIONS),
            )
            examples.append((self._prompt(question, picture=False), emotion + "<|im_end|>", None))
        return examples

    def _pick(self, count: int) -> list[tuple[Image.Image, Peep]]:
        return self.rng.sample(self.pictures, count)

    def _prompt(self, text: str, picture: bool) -> str:
        return _prompt(self.processor, text, picture)


def completion_loss(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, examples: Sequence[Example]
) -> torch.Tensor:
    """Return the mean cross-entropy of the completions' tokens."""
    pictures = [image for *_, image in examples if image is not None]
    texts = [prompt + completion for prompt, completion, _ in examples]
    inputs = processor(text=texts, images=pictures or None, padding=True, return_tensors="pt")
    lengths = [len(ids) for ids in processor.tokenizer([completion for _, completion, _ in examples])["input_ids"]]
    width = inputs["input_ids"].shape[1]
    # Padding is on the left, so a completion is the end of its row
    starts = width - torch.tensor(lengths)
    first = int(starts.min()) - 1
    logits = model(**inputs, logits_to_keep=width - first).logits[:, :-1]  # the completions' part only
    outside = torch.arange(width)[None, :] < starts[:, None]  # (B, L)
    labels = inputs["input_ids"].masked_fill(outside, -100)[:, first + 1 :]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


@torch.inference_mode()
def generate_thinking(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    images: Sequence[Image.Image],
    sample: bool = False,
    batch_size: int = 60,
) -> list[str]:
    """Return a completion of the structured prompt for each picture, greedy or sampled at temperature 1."""
    model.eval()
    completions = []
    prompt = _prompt(processor, prompt_text("set", EMOTIONS), picture=True)
    for start in tqdm(range(0, len(images), batch_size), desc="Writing completions", unit="batch"):
        batch = [image.convert("RGB") for image in images[start : start + batch_size]]
        inputs = processor(text=[prompt] * len(batch), images=batch, padding=True, return_tensors="pt")
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
        tokens = model.generate(**inputs, max_new_tokens=160, **options)
        completions += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return completions


def measure(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, rows: Any, sample: bool = False
) -> dict[str, float]:
    """Return the accuracy and the format rate of `generate_thinking` on the rows of a split."""
    completions = generate_thinking(model, processor, rows["image"], sample)
    right = [boxed_answer(text) == emotion for text, emotion in zip(completions, rows["emotion"], strict=True)]
    formed = [parse(text) is not None for text in completions]
    return {"accuracy": sum(right) / len(right), "format_rate": sum(formed) / len(formed)}


def _train_tokenizer(vocabulary_size: int) -> Qwen2Tokenizer:
    labels = ", ".join(EMOTIONS)
    rng = random.Random(0)
    peep = Peep("awe", "awe", "a bun", "grayBun", "blue", None, None, "")
    texts = [prompt_text(style, EMOTIONS) for style in ("set", "think", "direct")]
    texts += [CONSISTENCY_QUESTION, COHERENCE_QUESTION.format(trigger="", feeling="", labels=labels)]
    texts += ["user\n", "assistant\n"]
    texts += [set_completion(peep, emotion, rng) for emotion in EMOTIONS for _ in range(20)]
    # Answers get tokens of their own, so that the choices of a constrained decode part at their first token
    texts += [*EMOTIONS, "Yes", "No"] * 20
    texts += every_text() * 3
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size - len(SPECIAL_TOKENS), initial_alphabet=ByteLevel.alphabet(), show_progress=False
        ),
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        model_max_length=2048,
    )


def _prompt(processor: Qwen2_5_VLProcessor, text: str, picture: bool) -> str:
    conversation = messages(text, image="picture" if picture else None)
    return str(processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def _update(loss: torch.Tensor, optimizer: Any, schedule: Any, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def _numbers(validation: dict[str, float]) -> str:
    return (
        f"validation accuracy {validation['accuracy']:.2f}, format {validation['format_rate']:.2f} greedy and "
        f"{validation['sampled_format_rate']:.2f} sampled, "
        f"{validation['parameters'] / 1e6:.1f} M parameters"
    )
