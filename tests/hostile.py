"""Files that would run code if somebody trusted them; the code leaves a mark."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.mark),))


def write_pickle(file: Path, mark: Path, **others: Any) -> None:
    """Write what `torch.save` writes, with a payload in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state": {}, **others, "payload": Payload(mark)}, file)


CODE = "import pathlib\npathlib.Path({mark!r}).mkdir()\n"
CLASSES = {
    "config.json": ("AutoConfig", "MineConfig"),
    "tokenizer_config.json": ("AutoTokenizer", "MineTokenizer"),
    "processor_config.json": ("AutoProcessor", "MineProcessor"),
    "preprocessor_config.json": ("AutoImageProcessor", "MineImages"),
}
# It makes the folder if it can get at Python from inside the template
TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.mkdir(%r) }}"


def copy_model(model: Path, folder: Path) -> Path:
    """Copy a model's folder, which a test shares with others."""
    return Path(shutil.copytree(model, folder))


def add_code(model: Path, mark: Path, unknown: bool = False) -> None:
    """Let every part of a model name code of its own folder.

    Args:
        model: the folder.
        mark: the folder that the code makes.
        unknown: whether the model is of a kind that transformers does not know, so that it has no code but this.
    """
    classes = "\n".join(f"class {name}: pass" for _, name in (*CLASSES.values(), ("", "MineModel")))
    (model / "mine.py").write_text(CODE.format(mark=str(mark)) + classes)
    for name, (kind, cls) in CLASSES.items():
        file = model / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        code: dict[str, Any] = {kind: f"mine.{cls}"}
        if name == "config.json":
            code["AutoModelForImageTextToText"] = code["AutoModel"] = "mine.MineModel"
            content |= {"model_type": "mine"} if unknown else {}
        if name == "tokenizer_config.json":
            code = {kind: ["mine.MineTokenizer", "mine.MineTokenizer"]}
        file.write_text(json.dumps({**content, "auto_map": code}))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(
        CODE.format(mark=str(mark)) + "def generate(*args, **kwargs): pass\n"
    )
