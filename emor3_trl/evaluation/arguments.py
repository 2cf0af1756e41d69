"""What `recipes/evaluate.py` and `recipes/report.py` can be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from emor3_trl.evaluation.prediction import PredictionOptions

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")


@dataclass
class EvaluationArguments:
    """An evaluation: which models, on which splits, asked and decoded how."""

    models: list[str] = field(
        metadata={
            "aliases": ["--model"],
            "help": "Checkpoints, LoRA adapters or Hub names, each 'path' or 'name=path'; the name is its folder in "
            "output_dir. The others are compared with the first.",
        }
    )
    data: list[str] = field(metadata={"help": "Folders of prepared data: <split>.parquet and manifest.json."})
    output_dir: str = field(
        default="runs/evaluation", metadata={"help": "Folder of evaluations; each model gets a folder in it."}
    )
    splits: list[str] = field(
        default_factory=lambda: ["test"],
        metadata={
            "help": "Splits of each folder of data, or 'name=folder/split' for one more. Data sets are called as the "
            "splits of one folder, or as the folders of several."
        },
    )
    in_domain: list[str] | None = field(
        default=None,
        metadata={
            "help": "Data sets that the models were trained on, for the means of the paper's Table 1 (the first)."
        },
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model under LoRA adapters, if it is not where training found it."}
    )
    prompt_style: Literal["set", "think", "direct"] = field(
        default="set",
        metadata={"help": "'set': Structured Emotional Thinking. 'think': plain thinking. 'direct': the answer only."},
    )
    direct: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of models that answer at once (SFT on labels), beside others that think: they are asked "
            "with prompt_style 'direct', and about no steps."
        },
    )
    method: Literal["ask", "sepm"] = field(
        default="ask",
        metadata={
            "help": "'ask': one question. 'sepm': positive or negative first, then among those labels, without "
            "the tenth of the picture's tokens that mattered least (paper, Table 1)."
        },
    )
    engine: Literal["auto", "vllm", "transformers"] = field(
        default="auto",
        metadata={"help": "What generates. 'auto': vLLM if it is installed, else Transformers, as always for 'sepm'."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Compute type. 'auto': bfloat16 on a GPU, float32 on a CPU."}
    )
    max_tokens: int = field(default=2048, metadata={"help": "Longest completion in tokens (reference: 2,048)."})
    batch_size: int = field(default=64, metadata={"help": "Pictures per call of the engine."})
    reflect: bool = field(
        default=True, metadata={"help": "Ask the model about its own steps: think-answer agreement and consistency."}
    )
    sampled: int = field(
        default=0, metadata={"help": "Completions per picture that are drawn, beside the greedy one; 0 for none."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the drawn completions."})
    sampled_pictures: int | None = field(
        default=None, metadata={"help": "Draw completions for at most this many pictures of a split."}
    )
    label_probabilities: bool = field(
        default=True,
        metadata={"help": "Also store the probability of each label where the answer stands; never for 'sepm'."},
    )
    max_samples: int | None = field(default=None, metadata={"help": "At most this many pictures of each split."})
    seed: int = field(default=1, metadata={"help": "Seed of sampling and of the choice of pictures."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "'wandb' (offline without a key) and 'trackio' log metrics and completions with pictures."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Evaluate again what is finished."})

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size", "sampled_pictures", "max_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}. Expected 1 or more.")
        if self.method == "sepm":
            if self.engine == "vllm":
                raise ValueError(
                    "method is 'sepm' and engine is 'vllm', which gives no attention weights, and SEPM needs them. "
                    "Expected --engine transformers, or auto."
                )
            self.engine = "transformers"
        if self.sampled < 0:
            raise ValueError(f"sampled is {self.sampled}. Expected 0 (greedy only) or more.")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature is {self.temperature}. Expected more than 0: a greedy completion is always written, and "
                "--sampled draws more at this temperature."
            )
        unknown = set(self.report_to) - {"none", "wandb", "trackio"}
        if unknown:
            raise ValueError(f"report_to is {self.report_to}. Expected 'none' or 'wandb', or 'trackio'.")


def choose_options(args: EvaluationArguments) -> tuple[PredictionOptions, PredictionOptions]:
    """Return how the greedy completions are asked for, and how the drawn ones are."""
    names = ("method", "prompt_style", "max_tokens", "batch_size", "seed")
    shared = {name: getattr(args, name) for name in names}
    greedy = PredictionOptions(reflect=args.reflect, score_labels=args.label_probabilities, **shared)
    drawn = PredictionOptions(temperature=args.temperature, num_completions=args.sampled, reflect=False, **shared)
    return greedy, drawn


def choose_style(args: EvaluationArguments, name: str) -> EvaluationArguments:
    """Return the arguments for one model: those of `--direct` are asked for the answer only."""
    return replace(args, prompt_style="direct", reflect=False) if name in args.direct else args


def load_datasets(splits: Mapping[str, tuple[str, str]], args: EvaluationArguments) -> "dict[str, Dataset]":
    """Load the rows of each data set; see `load_split`.

    Args:
        splits: folder and split of each, by name.
        args: how they are asked, and how many of them.
    """
    from emor3_trl.data import load_split  # with Datasets, which a report does not need

    return {
        name: load_split(folder, split, args.prompt_style, args.max_samples, args.seed)
        for name, (folder, split) in splits.items()
    }


def name_models(models: Sequence[str], direct: Sequence[str] = ()) -> dict[str, str]:
    """Return {name: path} of `models`; a model without a name gets that of its folder.

    Raises:
        ValueError: if there is no model, two have the same name, or `direct` names another.

    >>> name_models(["base=runs/demo/base", "runs/demo/emo_r3/"])
    {'base': 'runs/demo/base', 'emo_r3': 'runs/demo/emo_r3/'}
    """
    pairs = [(name, path) if name else (Path(path).name, path) for name, path in map(_split_name, models)]
    named = _check_names(pairs, "models", "name=path")
    unknown = [name for name in direct if name not in named]
    if unknown:
        raise ValueError(f"--direct names {', '.join(unknown)}. Expected some of {', '.join(named)}.")
    return named


def name_splits(splits: Sequence[str], data: str | Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return {name: (folder, split)}: each split of each folder of data, and the splits that name their own folder.

    A name is what tells the data sets apart: the split, if there is one folder; the folder, if there is one split of
    several folders; else both.

    Raises:
        ValueError: if there is no split, or two have the same name.

    >>> name_splits(["test", "webemo=data/webemo/test"], "data/emoset")
    {'test': ('data/emoset', 'test'), 'webemo': ('data/webemo', 'test')}
    >>> name_splits(["test"], ["data/emoset", "data/emotion6"])
    {'emoset': ('data/emoset', 'test'), 'emotion6': ('data/emotion6', 'test')}
    """
    folders = [data] if isinstance(data, str) else list(data)
    unnamed = [split for split in splits if "=" not in split]
    pairs = []
    for folder in folders:
        for split in unnamed:
            parts = ([Path(folder).name] if len(folders) > 1 else []) + ([split] if len(unnamed) > 1 else [])
            pairs.append(("-".join(parts) or split, (folder, split)))
    for name, place in (_split_name(split) for split in splits if "=" in split):
        folder, _, split = place.rpartition("/")
        pairs.append((name, (folder or folders[0], split)))
    if any(name == "mean" for name, _ in pairs):
        raise ValueError("A data set is called 'mean', as the means over data sets are. Write name=folder/split.")
    return _check_names(pairs, "splits", "name=folder/split")


def check_folders(output_dir: str | Path, models: Mapping[str, str]) -> None:
    """Make sure that no evaluation would replace a model, or a run that is no evaluation.

    Args:
        output_dir: folder of evaluations.
        models: path of each model, and of what is under an adapter, by name.

    Raises:
        FileExistsError: naming the folder.
    """
    for name in models:
        folder = Path(output_dir) / name
        config = folder / "config.yaml"
        replaceable = not config.is_file() or b"model_fingerprint" in config.read_bytes()
        models_within = [
            path
            for path in models.values()
            if folder.resolve() in (Path(path).resolve(), *Path(path).resolve().parents)
        ]
        if models_within or not replaceable:
            holds = f"the model '{models_within[0]}'" if models_within else "a run that is no evaluation"
            raise FileExistsError(
                f"The evaluation of {name} would be written to '{folder}', which holds {holds}. Choose another "
                "--output_dir, or another name: --model NAME=PATH."
            )


def select_in_domain(datasets: Sequence[str], in_domain: Sequence[str] | None) -> list[str]:
    """Return the data sets that count as in-domain: the named ones, else the first.

    Raises:
        ValueError: if a named one is not evaluated.
    """
    unknown = [name for name in in_domain or () if name not in datasets]
    if unknown:
        raise ValueError(f"--in_domain names {', '.join(unknown)}. Expected some of {', '.join(datasets)}.")
    return list(datasets[:1]) if in_domain is None else list(in_domain)


def _split_name(item: str) -> tuple[str, str]:
    name, equals, place = item.partition("=")
    return (name, place) if equals else ("", item)


def _check_names(pairs: Sequence[tuple[str, T]], what: str, form: str) -> dict[str, T]:
    names = [name for name, _ in pairs]
    faulty = [name for name in names if name in ("", ".", "..") or "/" in name or names.count(name) > 1]
    if faulty or not names:
        raise ValueError(
            f"--{what} names {', '.join(map(repr, names)) or 'nothing'}. Expected one or more distinct names "
            f"without '/', none of them '.' or '..'; write {form} to choose them."
        )
    return dict(pairs)
