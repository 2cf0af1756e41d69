"""Reads the `.wandb` file of an offline run: what a server would be sent."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

# LevelDB's log format, after 7 bytes of W&B's own: blocks of parts, each with checksum, length and kind
HEAD, BLOCK, PART = 7, 32768, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def find_run_files(folder: Path) -> list[Path]:
    """Return the files of all runs below a folder, offline or not, in the order in which they began."""
    return sorted(folder.rglob("*run-*/run-*.wandb"), key=lambda file: file.stat().st_ctime)


def read_records(file: Path) -> Iterator[Any]:
    """Yield the records of a run."""
    content, place, record = file.read_bytes(), HEAD, b""
    while place + PART.size <= len(content):
        if BLOCK - place % BLOCK < PART.size:  # the rest of a block is empty
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = PART.unpack_from(content, place)
        place += PART.size
        record = (b"" if kind in (WHOLE, FIRST) else record) + content[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return what a run logged, one entry per line of its history."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read_records(file)
        if record.WhichOneof("record_type") == "history"
    ]


def read_config(file: Path) -> dict[str, Any]:
    """Return a run's configuration."""
    config: dict[str, Any] = {}
    for record in read_records(file):
        update = {"run": record.run.config, "config": record.config}.get(record.WhichOneof("record_type"))
        for item in update.update if update is not None else ():
            config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return config


def read_run_id(file: Path) -> str:
    """Return a run's id."""
    return next(record.run.run_id for record in read_records(file) if record.WhichOneof("record_type") == "run")
