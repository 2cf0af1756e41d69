"""Export a trained model: merged weights, processor, how it is decoded, and a model card of the run's own facts.

    python recipes/export.py --model runs/mine --output_dir exports/mine --evaluation runs/evaluation/mine

The folder is loaded by transformers and served by `vllm serve`. Nothing leaves this machine without --push_to_hub.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoProcessor, GenerationConfig

from emor3_trl.checkpoints import check_checkpoint, check_fit, estimate_room, whole_checkpoint
from emor3_trl.files import check_room, empty_folder
from emor3_trl.model_card.card import format_model_card, write_model_card
from emor3_trl.model_card.facts import Weights, describe_decoding, gather_facts, read_decoding
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.lock import lock_folder, unlock_folder
from emor3_trl.run.recipe import run_recipe, user_errors

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")


@dataclass
class ExportArguments:
    """Which run, to where."""

    model: str = field(metadata={"help": "The folder of a finished run."})
    output_dir: str = field(metadata={"help": "Where the model is written; a new folder."})
    evaluation: str | None = field(
        default=None, metadata={"help": "The folder of this model's evaluation, whose metrics the card shows."}
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model under a LoRA adapter, if it is not where training found it."}
    )
    data: str | None = field(
        default=None, metadata={"help": "The folder of its training data, if they are not where training found them."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Also upload it to this private repository, e.g. me/emo-r3."}
    )


def main() -> None:
    """Parse, look at everything, merge, write, and upload if that is asked for."""
    (args,) = parse_arguments([ExportArguments], about=__doc__).arguments
    output, run = Path(args.output_dir), Path(args.model)
    with user_errors():
        if output.exists():
            raise FileExistsError(f"output_dir '{output}' exists. Choose a new folder, or delete it.")
        if not (run / "metrics.json").is_file():
            raise FileNotFoundError(f"'{run}' holds no finished run (no metrics.json). Export a finished one.")
        check_checkpoint(args.model, args.base_model)
        check_fit(args.model, args.base_model)
        facts = gather_facts(run, args.evaluation, args.data)
        room = sum(file.stat().st_size for file in run.glob("*.safetensors"))
        room += 2 * estimate_room([args.model], args.base_model, 0, 0)  # a merged adapter
        check_room(output, room, "the model")
        unfinished = output.with_name(output.name + ".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        lock_folder(unfinished)
        empty_folder(unfinished)  # of what a killed export left
    with whole_checkpoint(args.model, args.base_model, unfinished) as whole:
        for pattern in WEIGHTS:
            for file in Path(whole).glob(pattern):
                shutil.copy(file, unfinished)
        processor = AutoProcessor.from_pretrained(whole, padding_side="left", trust_remote_code=False)
        stock = read_decoding(whole, processor)
    processor.save_pretrained(unfinished)
    GenerationConfig(**describe_decoding(stock, processor, facts.config)).save_pretrained(unfinished)
    write_model_card(format_model_card(facts, output.name, Weights(output.name)), unfinished)
    unfinished.rename(output)
    unlock_folder(unfinished)
    print(f"Written to {output}: weights, processor, generation_config.json, README.md (read it before you pass it on)")
    if args.push_to_hub:
        with user_errors():
            upload_privately(output, args.push_to_hub)
        print(f"Uploaded to {args.push_to_hub}, which is private")


def upload_privately(folder: Path, name: str) -> None:
    """Upload a folder to a private repository of the Hub, which is made if need be.

    Raises:
        ValueError: if the repository is there and public.
        OSError: if the Hub cannot be reached, or refuses.
    """
    import httpx
    from huggingface_hub import HfApi

    api, hint = HfApi(), f"The folder stays; to upload it yourself: hf upload {name} {folder}"
    try:
        api.create_repo(name, private=True, exist_ok=True)
        if not api.repo_info(name).private:
            raise ValueError(f"push_to_hub is '{name}', which is public: nothing is uploaded. {hint}")
        api.upload_folder(repo_id=name, folder_path=str(folder))
    except httpx.HTTPError as error:
        raise OSError(f"'{folder}' was not uploaded to '{name}' ({error}). {hint}") from error


if __name__ == "__main__":
    run_recipe(main)
