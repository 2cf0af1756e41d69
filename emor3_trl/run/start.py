"""How both training recipes start: model, folder, data and processor are looked at before a model loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoProcessor, ProcessorMixin
from trl import get_peft_config

from emor3_trl.checkpoints import check_model_path
from emor3_trl.data import count_rows, load_split
from emor3_trl.evaluation.validation import check_validation
from emor3_trl.groups.checks import check_model_settings
from emor3_trl.launch import keep_freed_memory
from emor3_trl.named_rewards import digest_rewards
from emor3_trl.run.arguments import GRPOArguments, RunArguments
from emor3_trl.run.command_line import Parsed, build_model_options
from emor3_trl.run.folder import RunFolder, digest_sources


@dataclass(frozen=True)
class OpenRun:
    """What a run starts from.

    Args:
        folder: where it is kept.
        train: its training rows.
        processor: the model's processor, which pads on the left.
    """

    folder: RunFolder
    train: Dataset
    processor: ProcessorMixin


def open_run(parsed: Parsed) -> OpenRun | None:
    """Check the model's path and the run's folder, and load the training rows and the processor.

    Args:
        parsed: the command line of `RunArguments`, `ModelConfig` and a trainer's configuration. The configuration gets
            the model's options as its `model_init_kwargs`.

    Returns:
        The run; None where its folder holds the finished run already, which is said.

    Raises:
        FileNotFoundError: if the model's folder or the data is not there.
        FileExistsError: if the folder holds another run.
        ValueError: if the data is broken, or the model does not allow what is asked of it.
    """
    run, model, args = parsed.arguments
    path = model.model_name_or_path
    check_model_path(path)
    sources = digest_sources(path, run.data, run.train_split) | digest_rewards(getattr(args, "rewards", None))
    folder = RunFolder(args.output_dir, parsed.values, run.overwrite, sources)
    if folder.is_finished:
        folder.say_nothing_to_do()
        return None
    args.model_init_kwargs = build_model_options(model, args.model_init_kwargs)
    # Without an answer, transformers would ask the terminal whether to run the code of a folder
    args.model_init_kwargs.setdefault("trust_remote_code", getattr(args, "trust_remote_code", False))
    check_model_settings(path, args, get_peft_config(model))
    keep_freed_memory()
    train = load_split(run.data, run.train_split, run.prompt_style, run.max_samples, args.seed)
    # TRL's multimodal token types need padding on the left. Images have their final size since the data was prepared,
    # so this processor and vLLM's have nothing left to resize.
    source = {"revision": model.model_revision, "trust_remote_code": getattr(args, "trust_remote_code", False)}
    processor = AutoProcessor.from_pretrained(path, padding_side="left", **source)
    return OpenRun(folder, train, processor)


def count_samples(run: RunArguments) -> int:
    """Return the number of training samples, without reading one; `max_samples` where no data is prepared yet."""
    if run.max_samples and not Path(run.data).exists():
        return run.max_samples
    rows = count_rows(run.data, run.train_split)
    return min(rows, run.max_samples or rows)


def load_validation(run: GRPOArguments, args: Any) -> dict[str, Dataset]:
    """Return the rows of each split of `validation_splits` by its name, that of another folder as <folder>_<split>.

    Args:
        run: what the recipe was told.
        args: an `EmoR3Config`; where there are more rows than `validation_samples`, they are drawn with its seed.

    Raises:
        FileNotFoundError: if there is no such split.
        ValueError: if it cannot be read, two have the same name, or the run cannot be validated.
    """
    if run.validation_splits:
        check_validation(args)
    datasets: dict[str, Dataset] = {}
    for place in map(Path, run.validation_splits or ()):
        folder, split = place.parent, place.name
        name = f"{folder.name}_{split}" if folder.name else split
        if name in datasets:
            raise ValueError(
                f"validation_splits names two data sets '{name}': {', '.join(run.validation_splits or ())}. Name each "
                "once, and rename a folder that is called like another."
            )
        data = folder if folder.name else run.data
        datasets[name] = load_split(data, split, run.prompt_style, run.validation_samples, args.seed)
    return datasets
