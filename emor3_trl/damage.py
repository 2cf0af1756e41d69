"""What keeps a stopped run from going on from its checkpoint: a file that is damaged or missing, another launch."""

import json
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

from emor3_trl.checksums import CHECKSUMS, find_changed, find_missing

# What a run goes on from, each with the files that hold it: in one process, under FSDP, under DeepSpeed
PARTS = {
    "weights": ("*.safetensors", "*/adapter_model.safetensors", "pytorch_model_fsdp*", "global_step*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "schedule": ("scheduler.pt", "global_step*"),
    "random state": ("rng_state*.pth",),
    "run state": ("run_state_*.pt",),
}


def find_damage(checkpoint: str | Path, read_whole: bool = True) -> str | None:
    """Return what keeps a run from going on from a `checkpoint-N`, or None: a file that is damaged, or missing.

    The trainer writes `trainer_state.json` when all else is there, and `checksums.json` after it; a run that was killed
    while it saved left none. Without `checksums.json`, a file that is cut short is seen, and a changed byte is not.

    Args:
        checkpoint: the folder.
        read_whole: whether files are compared with their checksums, for which all of them are read. Else a file that
            somebody edited is no damage.
    """
    from transformers import TrainerState  # takes seconds, which a report is spared

    folder = Path(checkpoint)
    if not (folder / "trainer_state.json").is_file():
        return "incomplete"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS]
    for file in sorted(files):
        damage = find_file_damage(file)
        if damage:
            return f"{file.relative_to(folder)} is not whole ({damage})"
    index = folder / "model.safetensors.index.json"
    try:
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        shards = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    except (TypeError, LookupError, AttributeError) as error:
        return f"trainer_state.json or {index.name} is not whole ({error})"
    if not isinstance(state.log_history, list):
        return "trainer_state.json is not whole (its log_history is no list)"
    if folder.name.startswith("checkpoint-") and folder.name != f"checkpoint-{state.global_step}":
        return f"trainer_state.json is of step {state.global_step}"
    missing = [name for name in sorted(shards) if not (folder / name).is_file()]
    parts = {part: any(any(folder.glob(pattern)) for pattern in patterns) for part, patterns in PARTS.items()}
    missing += [f"the {part}" for part, present in parts.items() if not present and any(parts.values())]
    if missing:
        return f"{', '.join(missing)} missing"
    return find_changed(folder) if read_whole else find_missing(folder)


def check_launch(checkpoint: str | Path, processes: int) -> None:
    """Make sure that a run goes on in as many processes as wrote its checkpoint: each has a random state of its own.

    Args:
        checkpoint: the folder.
        processes: of this launch.

    Raises:
        ValueError: if it is another number.
    """
    written = len(list(Path(checkpoint).glob("run_state_*.pt")))
    if written and written != processes:
        raise ValueError(
            f"'{checkpoint}' was saved by {written} process(es), and this launch has {processes}, so it could not go "
            f"on as it would have. Launch {written}, or start again with --overwrite."
        )


def find_file_damage(file: Path) -> str | None:
    """Return why a file of weights, of a state or of JSON cannot be read whole, without reading all of it."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                pass
        elif file.suffix == ".json":
            if not isinstance(json.loads(file.read_bytes()), dict):
                return "it does not hold keys with values"
        elif file.suffix in (".pt", ".pth", ".bin"):
            with ZipFile(file):  # torch writes archives, whose list of contents comes last
                pass
    except (SafetensorError, BadZipFile, ValueError, RecursionError) as error:
        return str(error)
    return None
