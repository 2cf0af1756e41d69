"""Families on transformers: they train, reflect, answer and are scored like any policy; and the table of families."""

import ast
import re

import pytest
import torch
from families import FAMILIES, WHOLE, build_family
from peft import LoraConfig, get_peft_model
from recipe_commands import ROOT, RecipeRunner
from safetensors.torch import load_file
from test_trainer import write_gold
from tiny_model import gold_completion, tiny_pictures
from training import cold_start_trainer, logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaConfig, Qwen3VLConfig

from emor3_trl import families
from emor3_trl.engines.adapters import save_merged
from emor3_trl.engines.engine import Continuation, Question
from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.policy import image_token_ids
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.prompts import render
from emor3_trl.run.memory import GIB, estimate_memory, measure_shape, read_shape

TEXT = "which emotion?"


PAGE = (ROOT / "docs" / "FAMILIES.md").read_text()
NAMED = re.compile("qwen|llama|llava|idefics|internvl|gemma", re.IGNORECASE)
OFTEN = ("llava", "llava_next", "gemma3")  # the others take images as one of these, or as Qwen2.5-VL, does


@pytest.fixture(
    scope="module",
    params=[pytest.param(family, marks=() if family in OFTEN else pytest.mark.slow) for family in FAMILIES],
)
def family_dir(request, tmp_path_factory):
    """The checkpoint folder of a random model of a family."""
    return build_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def loaded(family_dir):
    """The model and its processor."""
    processor = AutoProcessor.from_pretrained(family_dir, padding_side="left")
    return AutoModelForImageTextToText.from_pretrained(family_dir, dtype=torch.float32).eval(), processor


def test_two_steps_reflect_on_each_completion(family_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(family_dir, tmp_path, reward_funcs=None, max_steps=2, use_vllm=False, beta=0.01)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    write_gold(trainer, monkeypatch)
    trainer.train()
    assert min(logged(trainer, "reflection/requests")) > 0
    assert min(logged(trainer, "rewards/format_reward/mean")) == 1.0
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_writes_reflects_and_scores_labels(family_dir, monkeypatch, dtype):
    rows = tiny_dataset().select(range(3))
    with open_engine(family_dir, engine="transformers", dtype=dtype) as engine:
        written = predict_emotions(engine, rows, "test", PredictionOptions(max_tokens=4), progress=False)
        assert len(written) == 3
        decode = engine.processor.tokenizer.batch_decode
        engine.processor.tokenizer.batch_decode = lambda ids, **options: [
            gold_completion("anger") for _ in decode(ids, **options)
        ]
        options = PredictionOptions(max_tokens=4, score_labels=True)
        for prediction in predict_emotions(engine, rows, "test", options, progress=False):
            assert prediction.consistency_answer in ("Yes", "No")
            assert prediction.coherence_answer in prediction.label_space
            assert sum(prediction.label_probabilities) == pytest.approx(1)


@torch.no_grad()
def next_token(model, processor, beginning, rest, image):
    """Return the log-probabilities of the token after a prompt, from a forward of its own, without padding."""
    images = {} if image is None else {"images": [[image]]}
    made = processor(text=[beginning], **images, return_tensors="pt", add_special_tokens=False)
    further = torch.tensor([rest], dtype=torch.long)
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in made:
            tail = {"input_ids": further, "attention_mask": torch.ones_like(further)}.get(name, further * 0)
            made[name] = torch.cat([made[name], tail], dim=1)
    return model(**made).logits[0, -1].log_softmax(-1)


def test_questions_of_a_batch_are_answered_as_each_alone(loaded):
    model, processor = loaded
    engine = TransformersEngine(model, processor)
    images = [*tiny_pictures(3), None, None]
    texts = [TEXT + " Look." * row for row in range(5)]
    choices = ("awe", "fear", "Yes", "No")
    answers, _ = engine.choose([Question(*row) for row in zip(texts, [choices] * 5, images, strict=True)])
    tree = engine.encoder.tree(choices)
    for text, image, answer in zip(texts, images, answers, strict=True):
        before, after = render(processor, "\u2400", image is not None).split("\u2400")
        rest = [token for part in (text, after) for token in processor.tokenizer(part)["input_ids"]]
        scores = next_token(model, processor, before, rest, image)
        best = max(tree.allowed_tokens([]), key=lambda token: scores[token].item())
        chosen = tree.paths[choices.index(answer)]
        assert chosen[0] == best


def test_tokens_of_a_batch_are_scored_as_each_alone(loaded):
    model, processor = loaded
    rows = [
        Continuation(TEXT + " Look." * row, image, tuple(range(10, 10 + 3 * row)), (20, 30, 40))
        for row, image in enumerate(tiny_pictures(3))
    ]
    found = TransformersEngine(model, processor).log_probabilities(rows)
    for row, scores in zip(rows, found, strict=True):
        expected = next_token(model, processor, render(processor, row.text), list(row.prefix), row.image)
        assert scores == pytest.approx(expected[list(row.candidates)].tolist(), abs=1e-4)


def test_several_completions_are_about_the_image_of_their_row(loaded):
    """A greedy completion does not depend on how many are asked for, or about which other images."""
    model, processor = loaded
    engine, images = TransformersEngine(model, processor), tiny_pictures(3)
    options = {"temperature": 0.0, "max_tokens": 6, "seed": 0}
    many = engine.generate([TEXT] * 3, images, n=2, **options)
    alone = [engine.generate([TEXT], [image], n=1, **options)[0] for image in images]
    assert many == [row * 2 for row in alone]


def test_what_stands_for_an_image_is_never_written(loaded):
    model, processor = loaded
    made = processor(text=[render(processor, TEXT)], images=[tiny_pictures(1)], return_tensors="pt")
    assert model.config.image_token_id in made["input_ids"]
    assert model.config.image_token_id in image_token_ids(processor)


@pytest.mark.parametrize("family", WHOLE)
def test_a_cold_start_teaches_every_part_of_a_model_its_answers(tmp_path, family):
    trainer = cold_start_trainer(WHOLE[family](tmp_path / "model"), tmp_path / "run", max_steps=1, learning_rate=1e-3)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    parts = {name.split(".")[1] for name in before if name.startswith("model.")}
    assert {name.split(".")[1] for name in moved if name.startswith("model.")} == parts
    assert len(parts) > 1


LLAMA = (4096, 32, 32, 32, 11008, 32064)
CLIP_TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip


def qwen3_vl(sizes: tuple[int, ...], tied: bool, tower: tuple[int, ...], deepstack: list[int]) -> Qwen3VLConfig:
    """Return the configuration of a published Qwen3-VL."""
    vision = dict(zip(("depth", "hidden_size", "intermediate_size"), tower, strict=True))
    vision |= {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304}
    vision |= {"deepstack_visual_indexes": deepstack, "out_hidden_size": sizes[0]}
    text = {**name_sizes(sizes), "head_dim": 128, "tie_word_embeddings": tied}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def name_sizes(sizes: tuple[int, ...]) -> dict[str, int]:
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return dict(zip((*fields, "vocab_size"), sizes, strict=True))


PUBLISHED = {
    "Qwen/Qwen3-VL-2B-Instruct": qwen3_vl((2048, 28, 16, 8, 6144, 151936), True, (24, 1024, 4096), [5, 11, 17]),
    "Qwen/Qwen3-VL-4B-Instruct": qwen3_vl((2560, 36, 32, 8, 9728, 151936), True, (24, 1024, 4096), [5, 11, 17]),
    "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl((4096, 36, 32, 8, 12288, 151936), False, (27, 1152, 4304), [8, 16, 24]),
    "llava-hf/llava-1.5-7b-hf": LlavaConfig(
        text_config={"model_type": "llama", **name_sizes(LLAMA)}, vision_config=CLIP_TOWER
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_published_configurations(name):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(PUBLISHED[name])
    assert measure_shape(families.SHAPES[name].name, model) == families.SHAPES[name]


LANGUAGE = ".*language_model.*\\.(q|k|v|o|gate|up|down)_proj"  # of every LoRA configuration


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_adapters_of_the_language_model_are_counted_to_the_last_weight(name):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(PUBLISHED[name])
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=LANGUAGE))
    trained = {name: weight.numel() for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert all("language_model" in name for name in trained)
    values = {
        "data": "none", "max_completion_length": 16, "per_device_train_batch_size": 8, "num_generations": 8,
        "gradient_accumulation_steps": 1, "dtype": "bfloat16", "bf16": True, "beta": 0.01, "lora_r": 4,
        "use_peft": True, "lora_target_modules": LANGUAGE,
    }  # fmt: skip
    parts = {part: whole * GIB for part, whole, *_ in estimate_memory(values, families.SHAPES[name], 1)}
    assert parts["gradients"] == 4 * sum(trained.values())


@pytest.mark.parametrize("family", WHOLE)
def test_an_image_has_as_many_tokens_as_the_table_says(tmp_path, family):
    folder = WHOLE[family](tmp_path)
    row = families.FAMILIES[read_shape(str(folder)).family]
    processor = AutoProcessor.from_pretrained(folder)
    (image,) = tiny_pictures(1)
    image = image.resize((row.token_side * 3, row.token_side * 2))
    ids = processor(text=[render(processor, TEXT)], images=[[image]])["input_ids"][0]
    expected = row.count_image_tokens(image.width * image.height)
    if row.image_tokens:  # of a tower of 336 pixels; this one has 70
        expected = expected * 70**2 // 336**2
    assert ids.count(processor.image_token_id) == expected


def test_no_other_file_asks_which_family_a_model_is_of():
    """The trainer does not grow by families: the grid's systems and the demo are about one each."""
    asking = []
    for file in sorted((ROOT / "emor3_trl").rglob("*.py")):
        place = file.relative_to(ROOT / "emor3_trl").as_posix()
        if place.startswith(("demo/", "reproduce/")) or place == "families.py":
            continue
        asking += [(place, word) for word in list_words(ast.parse(file.read_text())) if NAMED.search(word)]
    assert asking == []


def list_words(tree: ast.AST) -> list[str]:
    """Return the names of a module and its strings of one word: what is said to people has spaces."""
    words: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(value)) if " " not in value:
                words.append(value)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                words.append(name)
            case ast.Import() | ast.ImportFrom():
                words += [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    return words


def test_a_family_without_a_row_is_sent_to_the_page_that_says_what_it_needs():
    unknown = families.find_family("somebodys_vl")
    assert "docs/FAMILIES.md" in unknown.unshared
    assert unknown.name_for_engine("model.vision_tower.weight") == "model.vision_tower.weight"


def test_a_model_with_another_tower_than_its_row_is_one_without_a_row():
    clip, pixtral = (LlavaConfig(vision_config={"model_type": kind}) for kind in ("clip_vision_model", "pixtral"))
    assert families.find_family_of(clip) is families.FAMILIES["llava"]
    other = families.find_family_of(pixtral)
    assert "this model has 'pixtral'" in (other.unshared or "")
    assert other.name_for_engine("model.vision_tower.x") == "model.vision_tower.x"


def test_the_page_has_the_rows_of_the_table():
    for name, family in families.FAMILIES.items():
        (row,) = re.findall(rf"^\| {re.escape(family.title)} \|.*`{name}`.*$", PAGE, re.MULTILINE)
        assert ("exact" in row) is (family.unshared is None)
        assert family.unshared is None or family.unshared in row
    named = set(re.findall(r"(?:recipes|tests|emor3_trl|docs)/[\w./]+\w", PAGE))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


PLANNED = re.compile(r"^\| `(\w+/\w+\.yaml)` \| (\w+) \| `(\w+)` \| (\d+) \| (\d+) \+ (\d+) \|$", re.MULTILINE)
COLUMNS = {"single_gpu": 0, "zero2": 1, "zero3": 2}  # of --plan


@pytest.mark.parametrize("row", PLANNED.findall(PAGE), ids=lambda row: row[0])
def test_the_page_says_what_plan_prints(row, monkeypatch, capsys):
    config, gpus, launcher, *expected = row
    path = str(ROOT / "recipes" / "configs" / config)
    printed = RecipeRunner("grpo", monkeypatch, capsys)(ROOT, "--config", path, "--plan").stdout

    def read(part: str) -> float:
        numbers = re.search(rf"^ +{part} +([\d. ]+)$", printed, re.MULTILINE).group(1).split()
        return float(numbers[COLUMNS[launcher]])

    assert re.search(r"^processes +(\d+)", printed, re.MULTILINE).group(1) == gpus
    kept = read("vLLM KV of one rollout")
    found = [read("peak while training"), read("peak while generating") - kept, kept]
    assert [f"{number:.0f}" for number in found] == expected


def test_every_configuration_of_a_family_is_on_the_page():
    written = {f"{folder}/{name}.yaml" for folder in WHOLE for name in ("emo_r3", "emo_r3_lora_80gb")}
    assert {row[0] for row in PLANNED.findall(PAGE)} == written


@pytest.mark.parametrize("family", WHOLE)
def test_a_merged_adapter_is_saved_by_the_names_that_its_base_came_with(tmp_path, family):
    folder = WHOLE[family](tmp_path / "model")
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    save_merged(get_peft_model(base, LoraConfig(r=4, target_modules=LANGUAGE)), tmp_path / "merged")
    first, merged = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "merged"))
    assert first.keys() == merged.keys()
    assert all(torch.allclose(first[name], merged[name]) for name in first)  # a new adapter adds nothing
