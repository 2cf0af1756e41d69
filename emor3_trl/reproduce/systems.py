"""The systems of the paper's tables and of our own Table 4, and the one place where they differ.

A scale has one configuration for each kind of training (`scales.Scale`). A system changes some of its settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from emor3_trl.prompts import PromptStyle

Stage = Literal["cold_start", "sft", "grpo"]
STAGES: tuple[str, ...] = get_args(Stage)


@dataclass(frozen=True)
class System:
    """A row of the paper's tables.

    Args:
        name: its folder, and its key in tables.json.
        title: what the tables call it.
        about: how it differs, in words.
        prompt_style: how it is asked, in its evaluation too.
        stage: the training that ends in it; None for a model as it is.
        group_size: G, of GRPO.
        start: the system whose model it starts from; None for the base model.
        family: which of the scale's base models it stands on.
        settings: the fields of the scale's configuration of `stage` that it changes.
        evaluation: the fields of the scale's evaluation that it changes.
    """

    name: str
    title: str
    about: str
    prompt_style: PromptStyle = "set"
    stage: Stage | None = None
    group_size: int | None = None
    start: str | None = None
    family: Literal["qwen", "llava"] = "qwen"
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)


_THINK = {"prompt_style": "think", "reward_variant": "plain", "lambda1": 0.0}
_DAPO = {**_THINK, "dynamic_sampling": "reward", "beta": 0.0, "epsilon_high": 0.28, "loss_type": "dapo"}
# Its attention weights are in memory for a whole batch
_SEPM = {"method": "sepm", "engine": "transformers", "batch_size": 32}
_STYLES: tuple[tuple[PromptStyle, str], ...] = (("set", "SET"), ("think", "think"), ("direct", "direct"))


def _list_untrained(family: Literal["qwen", "llava"], prefix: str, called: str) -> list[System]:
    """Return the systems without training on one base model."""
    vanilla = [
        System(
            f"{prefix}vanilla_{style}", f"{called}Vanilla, {word}", f"the base model under the {word} prompt", style,
            family=family,
        )
        for style, word in _STYLES
    ]  # fmt: skip
    about = "training-free: polarity first, then the least attended image tokens are dropped"
    sepm = System(f"{prefix}sepm", f"{called}SEPM", about, "direct", family=family, evaluation=_SEPM)
    return [*vanilla, sepm]


def _list_of_group(size: int) -> list[System]:
    """Return the systems that the paper trains at both group sizes."""
    grpo: dict[str, Any] = {"stage": "grpo", "group_size": size}
    return [
        System(
            f"grpo_g{size}", f"GRPO, G {size}", "plain thinking; 0.9 accuracy + 0.1 format", "think", settings=_THINK,
            **grpo,
        ),
        System(
            f"dapo_g{size}", f"DAPO, G {size}", "GRPO with dynamic sampling on the reward, clip-higher, no KL", "think",
            settings=_DAPO, **grpo,
        ),
        System(f"emo_r3_g{size}", f"EMO-R3, G {size}", "structured thinking and the reflective reward", "set", **grpo),
    ]  # fmt: skip


def _name_weights(part: str) -> dict[str, Any]:
    return {"rewards": ["accuracy", part, "format"], "reward_weights": [0.8, 0.1, 0.1]}


_GRPO_8: dict[str, Any] = {"stage": "grpo", "group_size": 8}
BASELINE = "emo_r3_g8"  # of Table 4: what each of its other rows changes
# What Table 4 sets beside EMO-R3: the switches of the reflection and of accuracy, then TRL's
_BEYOND_ROWS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "soft_raw", "soft reflection, raw", "P(Yes) and P(label) in place of 1 and 0",
        {"soft_reflection": "raw"},
    ),
    ("soft_calibrated", "soft reflection, calibrated", "the same, calibrated", {"soft_reflection": "calibrated"}),
    (
        "contrastive", "contrastive consistency", "the judge says Yes to this picture and not to another",
        {"contrastive_consistency": True},
    ),
    (
        "masked", "masked coherence", "label words are masked in steps 1 and 2 before the question",
        {"masked_coherence": True},
    ),
    (
        "gated_unseparated", "gate: unseparated groups", "reflection counts in groups all right or all wrong",
        {"gated_reflection": "unseparated"},
    ),
    (
        "gated_right", "gate: right answers", "reflection counts for right answers alone",
        {"gated_reflection": "right"},
    ),
    (
        "polarity", "polarity credit", "half of accuracy for another emotion of the same polarity",
        {"polarity_credit": 0.5},
    ),
    (
        "wheel", "accuracy on the wheel", "the less the answer is worth, the further off it is on Mikels' wheel",
        {"accuracy_truth": "wheel"},
    ),
    (
        "switches", "four switches together",
        "soft and calibrated, contrastive, masked, for right answers: chosen before anything was run",
        {
            "soft_reflection": "calibrated", "contrastive_consistency": True, "masked_coherence": True,
            "gated_reflection": "right",
        },
    ),
    (
        "gdpo", "GDPO", "each reward is normalised before they are summed",
        {"multi_objective_aggregation": "normalize_then_sum"},
    ),
    (
        "gspo", "GSPO", "a completion has one ratio, and the mean is over completions, as TRL asks",
        {
            "importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4,
            "delta": None,
        },
    ),
    (
        "dr_grpo", "Dr. GRPO", "sums over a constant length, and advantages are not divided by the deviation",
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ),
    (
        "cispo", "CISPO",
        "clipped weights in place of clipped ratios; ScaleRL's bound",
        {"loss_type": "cispo", "epsilon_high": 5.0},
    ),
    (
        "entropy", "entropy filter", "the loss of the fifth of the tokens with the highest entropy",
        {"top_entropy_quantile": 0.2},
    ),
)  # fmt: skip
_BEYOND = [
    System(f"{name}_g8", f"{title}, G 8", about, "set", settings=settings, **_GRPO_8)
    for name, title, about, settings in _BEYOND_ROWS
]
_ALL = [
    *_list_untrained("llava", "llava_", "LLaVA "),
    *_list_untrained("qwen", "", ""),
    System("sft", "SFT", "answers only, the whole split, direct prompt", "direct", stage="sft"),
    System("cold_start", "Cold-Start-Emo", "SFT on a few answers, before GRPO", "set", stage="cold_start"),
    *_list_of_group(4),
    *_list_of_group(8),
    System(
        "dapo_accuracy_g8", "DAPO on accuracy, G 8", "DAPO that drops groups all right or all wrong: the fair filter",
        "think", settings={**_DAPO, "dynamic_sampling": "accuracy"}, **_GRPO_8,
    ),
    System(
        "emo_r3_cold_start_g8", "EMO-R3#, G 8", "EMO-R3 from the Cold-Start-Emo of the same seed", "set",
        start="cold_start", **_GRPO_8,
    ),
    System(
        "set_only_g8", "SET without RER, G 8", "EMO-R3 without reflection", "set", settings={"lambda1": 0.0}, **_GRPO_8,
    ),
    System(
        "consistency_g8", "consistency only, G 8", "of the reflective reward, consistency has all the weight", "set",
        settings=_name_weights("consistency"), **_GRPO_8,
    ),
    System(
        "coherence_g8", "coherence only, G 8", "of the reflective reward, coherence has all the weight", "set",
        settings=_name_weights("coherence"), **_GRPO_8,
    ),
    System(
        "reference_g8", "EMO-R3, reference's rewards, G 8",
        "the rewards as the reference implementation computes them, of reflection as it is asked here",
        "set", settings={"reward_variant": "reference"}, **_GRPO_8,
    ),
    *_BEYOND,
]  # fmt: skip
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}

# The rows of the paper's tables with those that this project adds to them, and Table 4, which is our own
TABLES: dict[int, tuple[str, ...]] = {
    1: (
        *(name for name in SYSTEMS if name.startswith(("llava_", "vanilla_")) or name == "sepm"),
        "sft", "grpo_g4", "dapo_g4", "emo_r3_g4", "grpo_g8", "dapo_g8", "dapo_accuracy_g8", "emo_r3_g8",
    ),
    2: ("sft", "cold_start", "grpo_g8", "emo_r3_g8", "emo_r3_cold_start_g8"),
    3: ("grpo_g8", "set_only_g8", "emo_r3_g8", "consistency_g8", "coherence_g8", "reference_g8"),
    4: (BASELINE, *(system.name for system in _BEYOND)),
}  # fmt: skip


_HEAD = """# The systems of the paper's tables

Each is one configuration over one trainer. A scale has a YAML for each kind of training, which
`recipes/configs/<scale>/reproduce.yaml` names; a system changes the fields of its row and nothing else. The base of
GRPO is EMO-R3. This page is generated from `emor3_trl/reproduce/systems.py`.

`python recipes/reproduce.py --table 1 2 3 --scale demo --seeds 3` runs them, and `--plan` lists the runs. Table 4 is
not the paper's: `--table 4` sets what this project adds, and what TRL offers, beside EMO-R3.

| system | what it is | training | prompt | fields that differ | tables |
|---|---|---|---|---|---|
"""
_FOOT = """
The prompt is how a system is trained and asked. SFT and Cold-Start-Emo train on the direct question; Cold-Start-Emo is
asked for the three steps, because EMO-R3# starts there. A model as it is depends on no training set and no seed, so it
is run once.

G 4 and G 8 take as many prompts and optimizer steps, as in the reference implementation, so G 4 writes half as many
completions. At one G, all systems of GRPO train on as many completions. `tables.json` and `RESULTS.md` hold the steps
and completions that were counted.

Consistency only and coherence only give one question the whole of `lambda1`. RER without SET does not exist, because it
asks about the steps; SET and RER off is GRPO.

Each row of Table 4 is EMO-R3 with the named fields changed, on the same budget. [RESULTS.md](RESULTS.md) says what of
it helps, once it has been run, and [REWARDS.md](REWARDS.md) what the switches compute. Accuracy by votes has no row:
where people voted, it is a field (`accuracy_truth: votes`), and about a drawn picture nobody has.

Where a rollout has one update, as in the demo, every ratio is 1 and nothing is clipped: GSPO's row is then the mean
over completions, and CISPO's gradient is EMO-R3's, so that its row is a second run of the baseline. Both keep the
`beta` of the scale.
"""
_RECIPES = {None: "none", "cold_start": "`cold_start.py`", "sft": "`cold_start.py`", "grpo": "`grpo.py`"}


def describe_systems() -> str:
    """Return docs/SYSTEMS.md: a row for each system, with the fields that it changes and the tables that it is in."""
    return _HEAD + "".join(f"{_describe_system(system)}\n" for system in SYSTEMS.values()) + _FOOT


def _describe_system(system: System) -> str:
    changed = {**({"num_generations": system.group_size} if system.group_size else {}), **system.settings}
    if system.settings.get("prompt_style") == system.prompt_style:
        del changed["prompt_style"]  # it has a column
    changed |= {f"evaluation {key}": value for key, value in system.evaluation.items()}
    fields = ", ".join(f"`{key}: {_write_value(value)}`" for key, value in changed.items()) or "–"
    start = f", from {SYSTEMS[system.start].title}" if system.start else ""
    tables = ", ".join(str(number) for number, names in TABLES.items() if system.name in names)
    columns = [f"{system.title} (`{system.name}`)", system.about, _RECIPES[system.stage] + start, system.prompt_style]
    return f"| {' | '.join([*columns, fields, tables])} |"


def _write_value(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
