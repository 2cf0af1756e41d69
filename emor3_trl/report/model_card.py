"""The model card of a run: every fact stands in a file of the run, of its data or of its evaluation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emor3_trl.checkpoints import fingerprint
from emor3_trl.data import load_split
from emor3_trl.files import read_mapping, write_text
from emor3_trl.prompts import prompt_text

_CURE = "Export a finished run."
# What of a run's configuration a reader wants to know, where it is set
SETTINGS = (
    "rewards", "reward_weights",
    "reward_variant", "lambda1", "lambda2", "num_generations", "max_steps", "num_train_epochs", "learning_rate", "beta",
    "use_peft", "lora_r", "freeze_vision_tower", "temperature", "max_completion_length", "num_samples", "seed",
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


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run say.

    Args:
        config: its resolved configuration (config.yaml).
        environment: when, where and with what it ran (environment.json).
        labels: the label space of its training data.
        data: what the data's manifest says, empty where the data is elsewhere.
        metrics: of its evaluation (metrics.json), empty if there is none.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    labels: tuple[str, ...]
    data: dict[str, Any]
    metrics: dict[str, Any]


def gather_facts(run: Path, evaluation: str | None = None) -> RunFacts:
    """Read the files of a run, of its training data and of its evaluation.

    Args:
        run: the run's folder.
        evaluation: the folder of an evaluation of this very model, or None.

    Raises:
        FileNotFoundError: if its training data is not there.
        ValueError: if a file cannot be read, or the evaluation is of other weights.
    """
    config = read_mapping(run / "config.yaml", _CURE)
    environment = read_mapping(run / "environment.json", _CURE)
    manifest = Path(config.get("data", ""), "manifest.json")
    data = read_mapping(manifest, "Prepare the data again.") if manifest.is_file() else {}
    metrics: dict[str, Any] = {}
    if evaluation is not None:
        evaluated = read_mapping(Path(evaluation) / "config.yaml", "Evaluate the model again.")
        if evaluated.get("model_fingerprint") != fingerprint(run):
            raise ValueError(
                f"The evaluation '{evaluation}' is of '{evaluated.get('model')}', whose weights are not those of "
                f"'{run}'. Evaluate this model: recipes/evaluate.py --model {run}."
            )
        metrics = read_mapping(Path(evaluation) / "metrics.json", "Evaluate the model again.")
    rows = load_split(config["data"], config.get("train_split", "train"), max_samples=1)
    return RunFacts(config, environment, tuple(rows[0]["label_space"]), data, metrics)


def format_model_card(facts: RunFacts, name: str) -> str:
    """Return the card as Markdown, with the front matter of the Hub.

    Args:
        facts: see `gather_facts`.
        name: what the model is called.
    """
    config, versions = facts.config, facts.environment.get("versions", {})
    base, style = config.get("model_name_or_path"), config.get("prompt_style", "set")
    method = "Cold-Start-Emo (SFT on answers)" if "num_samples" in config else _name_method(config)
    dataset, licences = facts.data.get("source"), facts.data.get("licences") or {}
    lines = [
        "---", "library_name: transformers", "pipeline_tag: image-text-to-text", f"base_model: {json.dumps(base)}",
        "tags: [emotion, trl, emo-r3]", "---", "", f"# {name}", "",
        f"`{base}` after {method}, trained with emor3_trl {versions.get('emor3_trl')} (TRL {versions.get('trl')}).",
        f"It chooses one of {len(facts.labels)} emotions for a picture: {', '.join(facts.labels)}.", "",
        "## Use", "", "```python", format_snippet(name, style, facts.labels), "```", "",
        f"Served: `vllm serve {name}`, then a chat completion with the picture, this text and `temperature: 0`.", "",
        "## Training", "",
        f"- data: `{config.get('data')}`{f' ({dataset})' if dataset else ''}, {_format_counts(facts.data, config)}",
        *(f"- {key}: {config[key]}" for key in _list_settings(config)),
        *(f"- pictures: {licence}" for licence in licences.values()),
        f"- started {facts.environment.get('started')}, commit {facts.environment.get('commit')}", "",
        *_format_metrics(facts.metrics),
        _LIMITS,
        "The licences of the base model and of the data hold for this model too: look them up before it is passed on.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def format_snippet(path: str, style: Any, labels: tuple[str, ...]) -> str:
    """Return Python code that asks an exported model about a picture, as it was asked in training."""
    return f"""\
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained({path!r}), AutoProcessor.from_pretrained({path!r})
question = {prompt_text(style, labels)!r}
content = [{{"type": "image", "image": Image.open("photo.jpg").convert("RGB")}}, {{"type": "text", "text": question}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}], add_generation_prompt=True, tokenize=True, return_dict=True,
    return_tensors="pt",
)
output = model.generate(**inputs)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""


def write_model_card(facts: RunFacts, folder: Path) -> None:
    """Write the card as README.md, in place of another."""
    write_text(folder / "README.md", format_model_card(facts, folder.name))


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
    return [key for key in SETTINGS if config.get(key) is not None and key not in idle]


def _format_counts(data: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    split = config.get("train_split", "train")
    counts = data.get("counts", {}).get(split)
    if isinstance(counts, dict):
        return f"split {split}: {', '.join(f'{label} {count:,}' for label, count in counts.items())}"
    return f"split {split}" + (f": {counts:,} pictures" if counts else "")


def _format_metrics(metrics: Mapping[str, Any]) -> list[str]:
    names = [key.split("/")[1] for key in metrics if key.startswith("eval/") and key.endswith("/accuracy")]
    if not names:
        return ["## Evaluation", "", "This model was not evaluated when the card was written.", ""]
    lines = ["## Evaluation", "", "| data | pictures | accuracy [95%] | macro F1 | format |", "|---|---|---|---|---|"]
    for name in names:
        values = {key: metrics[f"eval/{name}/{key}"] for key in ("n", "accuracy", "accuracy_low", "accuracy_high",
                                                                  "macro_f1", "format_rate")}  # fmt: skip
        interval = f"{values['accuracy']:.3f} [{values['accuracy_low']:.3f}, {values['accuracy_high']:.3f}]"
        shares = " | ".join(f"{values[key]:.3f}" for key in ("macro_f1", "format_rate"))
        lines.append(f"| {name} | {values['n']:.0f} | {interval} | {shares} |")
    return [*lines, ""]
