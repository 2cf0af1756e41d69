"""The English demo's base model: SmolLM2 gets eyes, and learns to think about emotions in sentences that it wrote.

Five stages, each kept on disk when it is finished: the graft; the sentences; the vision tower, taught to make the
frozen language model say what is in a picture; the judge, which tells true sentences from false ones; the demo's tasks.
Only train splits are learned from.
"""

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from emor3_trl.data.output_folder import lock_folder
from emor3_trl.demo import judging
from emor3_trl.demo.drawings import Drawing
from emor3_trl.demo.english_tasks import EnglishTasks
from emor3_trl.demo.leaning import open_smollm2
from emor3_trl.demo.model import load_lessons, load_pictures, measure_model, save_whole
from emor3_trl.demo.pictures import load_drawings, write_demo_data
from emor3_trl.demo.smollm2 import build_smollm2_processor, find_smollm2, graft_smollm2
from emor3_trl.demo.teaching import BaseTraining, compute_completion_loss, teach_vision
from emor3_trl.demo.updates import Checkpoint, Part, teach_in_updates
from emor3_trl.demo.writing import Sentences, WritingPlan, write_sentences
from emor3_trl.files import read_mapping
from emor3_trl.groups.attention import install_attention, remove_attention
from emor3_trl.launch import keep_freed_memory

Picture = tuple[Image.Image, Drawing]
Model = tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]
RECORD = "english.json"  # in each model's folder: what it was made with, and what was measured

# Examples of each task in an update. Most lessons have no question, which is half of the tokens; the last ones have it
UNASKED = {"unasked_thinking": 4, "coherence": 2}
ASKED = {"asked": 8, "coherence": 2}
# Images in an update, and what is claimed of each: to learn to judge, and beside the tasks
JUDGED, JUDGED_BESIDE = [6, 8], [2, 8]
# Peak learning rates by part: what is new learns fast, and SmolLM2 keeps its English
ALIGN_RATES = {"tower": 3e-4, "merger": 1e-3}
JUDGE_RATES = {"tower": 1e-4, "merger": 3e-4, "language": 1.5e-4}
HEADS_RATE = 2e-3
BASE_RATES = {"tower": 1e-4, "merger": 3e-4, "language": 1e-4}
MIN_GAP = 0.3  # nats a token; a tower that sees nothing has none
MIN_JUDGED = 0.65  # of the verdicts are right; half of them by chance
FEWEST = 8  # sentences that each emotion and each mood needs
GAP_SENTENCES = 96
JUDGED_PICTURES = 48


@dataclass
class EnglishArguments:
    """The English demo's base model: where it is made, from what, and how long it is taught."""

    output_dir: str = field(
        default="runs/english", metadata={"help": "Folder of the English demo; the model is base/ in it."}
    )
    data: str = field(
        default="runs/demo/data", metadata={"help": "The demo's pictures; they are drawn first where there are none."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, sentences and lessons (pictures: of the demo)."})
    rounds: int = field(default=2, metadata={"help": "Rounds in which SmolLM2 writes about what lacks sentences."})
    samples: int = field(default=8, metadata={"help": "Sentences that it tries for each prompt in a round."})
    vision_steps: int = field(default=180, metadata={"help": "Steps of the vision tower alone, with linear heads."})
    align_updates: int = field(default=100, metadata={"help": "Updates of the vision tower below a frozen SmolLM2."})
    align_batch: int = field(default=12, metadata={"help": "Sentences in such an update."})
    judge_updates: int = field(default=80, metadata={"help": "Updates of the whole model on true and false sentences."})
    base_updates: int = field(default=60, metadata={"help": "Updates of the whole model on tasks without a question."})
    asked_updates: int = field(default=30, metadata={"help": "Updates after those, with the questions as they are."})
    measured: int = field(default=8, metadata={"help": "Validation pictures of each world that base is asked about."})
    save_every: int = field(default=20, metadata={"help": "Updates between checkpoints; a killed stage goes on there."})

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and name != "seed" and value < 1:
                raise ValueError(f"{name} is {value}. Expected 1 or more.")


def prepare_english(args: EnglishArguments) -> dict[str, float]:
    """Make the English demo's base model, from the first stage that is not finished.

    Returns:
        What `measure_model` does, on the first validation pictures of each world.

    Raises:
        ModuleNotFoundError: if SmolLM2 is not installed.
        FileExistsError: if the folder holds a stage that was made otherwise.
        ValueError: if too few sentences hold, or the vision tower has learned to see nothing.
    """
    find_smollm2()
    keep_freed_memory()
    output_dir, data = Path(args.output_dir), Path(args.data)
    with lock_folder(output_dir):
        if not (data / "manifest.json").is_file():
            print(f"{data} is missing: drawing the demo's pictures first", flush=True)
            write_demo_data(data)
        made = output_dir / "preparation"
        manifest = read_mapping(data / "manifest.json", f"Delete the folder '{data}' and prepare it again.")
        settings: dict[str, Any] = {"seed": args.seed}
        keep_stage(made / "graft", settings, partial(_graft, args.seed))
        plan = WritingPlan(rounds=args.rounds, samples=args.samples)
        sentences = _write(made, data, args.seed, plan)
        settings |= {"pictures": [manifest["seed"], manifest["sizes"]], "writing": asdict(plan)}

        def teach(folder: Path, build: Callable[..., tuple[Model, dict[str, Any]]], **more: Any) -> dict[str, Any]:
            settings.update(more)
            checkpoint = Checkpoint(folder.with_suffix(".pt"), args.save_every, dict(settings))
            return keep_stage(folder, settings, partial(build, args, made, sentences, checkpoint))

        teach(made / "aligned", _align, align=[args.vision_steps, args.align_updates, args.align_batch, ALIGN_RATES])
        teach(made / "judge", _teach_judge, judge=[args.judge_updates, JUDGED, JUDGE_RATES, HEADS_RATE])
        lessons = [UNASKED, ASKED, JUDGED_BESIDE, BASE_RATES]
        updates = [args.base_updates, args.asked_updates, args.measured]
        record = teach(output_dir / "base", _teach_base, base=[*updates, *lessons])
        return dict(record["validation"])


def keep_stage(
    folder: Path, settings: dict[str, Any], build: Callable[[], tuple[Model, dict[str, Any]]]
) -> dict[str, Any]:
    """Return the record of a finished stage; build the stage first where it is not.

    Args:
        folder: of the stage's model.
        settings: what decides the model.
        build: returns the model, and what was measured on the way.

    Raises:
        FileExistsError: if the folder holds a model of other settings.
    """
    settings = json.loads(json.dumps(settings))  # as a record has them
    if folder.exists():
        record = read_mapping(folder / RECORD, f"Delete '{folder}'.") if (folder / RECORD).is_file() else {}
        if record.get("settings") != settings:
            raise FileExistsError(
                f"'{folder}' holds a model that was made otherwise. Delete that folder, or take another --output_dir."
            )
        print(f"Reusing {folder}", flush=True)
        return record
    start = time.monotonic()
    model, measured = build()
    record = {"settings": settings, **measured, "seconds": round(time.monotonic() - start, 1)}
    save_whole(*model, folder, {RECORD: record})
    folder.with_suffix(".pt").unlink(missing_ok=True)  # the stage's checkpoint
    print(f"{folder}: {record['seconds']:.0f} s", flush=True)
    return record


def load_model(folder: Path) -> Model:
    """Return the model of a finished stage, in float32."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder, padding_side="left")


def _graft(seed: int) -> tuple[Model, dict[str, Any]]:
    processor = build_smollm2_processor()
    return (graft_smollm2(processor, seed), processor), {}


def _write(made: Path, data: Path, seed: int, plan: WritingPlan) -> Sentences:
    start = time.monotonic()
    sentences = write_sentences(made / "sentences.json", seed, plan, open_smollm2)
    kinds = ("triggers", "feelings", "conclusions")
    told = ", ".join(f"{sum(map(len, getattr(sentences, kind).values())):,} {kind}" for kind in kinds)
    print(f"{made / 'sentences.json'}: {told}, {time.monotonic() - start:.0f} s", flush=True)
    drawings = load_drawings(data).values()
    sentences.check(drawings, FEWEST)
    untold = sum(not sentences.find_pairs(drawing) for drawing in drawings)
    if untold:
        print(f"{untold:,} of {len(drawings):,} pictures have no sentence that holds, and are no lessons", flush=True)
    return sentences


def _keep_told(pictures: Iterable[Picture], sentences: Sentences) -> list[Picture]:
    return [(image, drawing) for image, drawing in pictures if sentences.find_pairs(drawing)]


def _align(
    args: EnglishArguments, made: Path, sentences: Sentences, checkpoint: Checkpoint
) -> tuple[Model, dict[str, Any]]:
    """Teach the vision tower until the frozen language model says what is in a picture."""
    model, processor = load_model(made / "graft")
    lessons = load_lessons(args.data)
    pictures = _keep_told(lessons, sentences)
    if not checkpoint.path.exists():
        torch.manual_seed(args.seed)
        teach_vision(model, processor, lessons, BaseTraining(vision_steps=args.vision_steps), random.Random(args.seed))
        match_scale(model, processor, [image for image, _ in pictures[:64]])
    model.train().requires_grad_(False)
    model.model.visual.requires_grad_(True)

    def compute_losses(update: int) -> dict[str, torch.Tensor]:
        tasks = EnglishTasks(processor, pictures, random.Random(f"align-{args.seed}-{update}"), sentences)
        return {"description": compute_completion_loss(model, processor, tasks.descriptions(args.align_batch))}

    parts = _list_parts(model, ALIGN_RATES)
    teach_in_updates("Aligning the tower", parts, compute_losses, args.align_updates, checkpoint)
    own, other = measure_gap(model, processor, args.data, sentences)
    print(f"Loss of a sentence after its own image {own:.2f}, after another {other:.2f} nats a token", flush=True)
    if other - own < MIN_GAP:
        raise ValueError(
            f"The vision tower sees nothing: a sentence is only {other - own:.2f} nats a token likelier after its own "
            f"image than after another, {MIN_GAP} are needed. Delete '{checkpoint.path}', and raise --align_updates."
        )
    return (model.requires_grad_(True), processor), {"loss_own_image": own, "loss_other_image": other}


def _teach_judge(
    args: EnglishArguments, made: Path, sentences: Sentences, checkpoint: Checkpoint
) -> tuple[Model, dict[str, Any]]:
    """Teach the whole model which sentences are true of an image."""
    model, processor = load_model(made / "aligned")
    pictures = _keep_told(load_lessons(args.data), sentences)
    torch.manual_seed(args.seed)
    heads = judging.LookHeads(model.config.get_text_config().hidden_size)
    model.train()
    install_attention(model)

    def compute_losses(update: int) -> dict[str, torch.Tensor]:
        tasks = EnglishTasks(processor, pictures, random.Random(f"judge-{args.seed}-{update}"), sentences)
        return judging.compute_judging_losses(model, processor, heads, tasks.claims(*JUDGED))

    parts = [*_list_parts(model, JUDGE_RATES), Part(list(heads.parameters()), HEADS_RATE)]
    teach_in_updates("Teaching to judge", parts, compute_losses, args.judge_updates, checkpoint)
    right = _measure_judge(model, processor, args.data, sentences, judging.SHORT_QUESTION)
    print(f"True and false sentences about validation images that are judged right: {right:.2f}", flush=True)
    if right < MIN_JUDGED:
        raise ValueError(
            f"The model does not judge: {right:.2f} of the sentences about validation images are judged right, "
            f"{MIN_JUDGED} are needed. Delete '{checkpoint.path}', and raise --judge_updates."
        )
    remove_attention(model)
    return (model, processor), {"judged_right": right}


def _teach_base(
    args: EnglishArguments, made: Path, sentences: Sentences, checkpoint: Checkpoint
) -> tuple[Model, dict[str, Any]]:
    """Teach the whole model the demo's tasks, and measure it on validation."""
    model, processor = load_model(made / "judge")
    pictures, updates = _keep_told(load_lessons(args.data), sentences), args.base_updates + args.asked_updates
    model.train()
    install_attention(model)

    def compute_losses(update: int) -> dict[str, torch.Tensor]:
        tasks = EnglishTasks(processor, pictures, random.Random(f"base-{args.seed}-{update}"), sentences)
        batches = UNASKED if update < args.base_updates else ASKED
        losses = {
            name: compute_completion_loss(model, processor, getattr(tasks, name)(count))
            for name, count in batches.items()
        }
        return {**losses, "verdict": judging.compute_verdict_loss(model, processor, tasks.claims(*JUDGED_BESIDE))}

    parts = _list_parts(model, BASE_RATES)
    teach_in_updates("Teaching the tasks", parts, compute_losses, updates, checkpoint)
    right = _measure_judge(model, processor, args.data, sentences, judging.QUESTION)
    remove_attention(model)
    with torch.no_grad():  # a lower temperature that is part of the weights, as for the demo's own base model
        model.model.language_model.norm.weight.mul_(BaseTraining().sharpness)
    validation = measure_model(model, processor, args.data, args.measured)
    told = {**validation, "judged right": right}
    print("Validation: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()), flush=True)
    return (model, processor), {"validation": validation, "judged_right": right}


def match_scale(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: list[Any]) -> None:
    """Give image tokens the size of the language model's embeddings; linear heads do not ask for any size."""
    inputs = processor.image_processor(images=images, return_tensors="pt")
    with torch.no_grad():
        features = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        embeddings = model.get_input_embeddings().weight
        last = model.model.visual.merger.mlp[-1]
        scale = embeddings.square().mean().sqrt() / features.square().mean().sqrt()
        last.weight.mul_(scale)
        last.bias.mul_(scale)


def measure_gap(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, data: str | Path, sentences: Sentences
) -> tuple[float, float]:
    """Return the mean loss of sentences about validation images, after their own images and after others."""
    pictures = _keep_told(load_pictures(data, "validation"), sentences)
    tasks = EnglishTasks(processor, pictures, random.Random(0), sentences)
    with torch.no_grad():
        losses = [
            float(compute_completion_loss(model, processor, examples))
            for examples in tasks.swapped_descriptions(min(GAP_SENTENCES, len(pictures)))
        ]
    return losses[0], losses[1]


def _measure_judge(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    data: str | Path,
    sentences: Sentences,
    question: str,
) -> float:
    pictures = _keep_told(load_pictures(data, "validation"), sentences)
    tasks = EnglishTasks(processor, pictures, random.Random(0), sentences)
    claimed = tasks.claims(min(JUDGED_PICTURES, len(pictures)), JUDGED[1])
    return judging.measure_judge(model, processor, claimed, question)


def _list_parts(model: Qwen2_5_VLForConditionalGeneration, rates: dict[str, float]) -> list[Part]:
    merger = list(model.model.visual.merger.parameters())
    merged = set(map(id, merger))
    parameters = {
        "merger": merger,
        "tower": [parameter for parameter in model.model.visual.parameters() if id(parameter) not in merged],
        "language": list(model.model.language_model.parameters()),  # with the head, which is the embedding
    }
    return [Part(parameters[name], rate) for name, rate in rates.items()]
