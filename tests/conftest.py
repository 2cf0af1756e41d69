"""A Qwen2.5-VL of 0.1 M parameters with its own tokenizer, built from a config: no network, no stored weights."""

import gc
import os
import signal
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import find_browser, open_browser
from datasets import Dataset
from frozen_heap import freeze_imports, keep_frozen
from PIL import Image
from ports import find_free_port
from tiny_model import build_tiny_model, gold_completion, tiny_pictures

from emor3_trl.launch import quiet_deepspeed

quiet_deepspeed()
gc.disable()
keep_frozen()
LAUNCHED = ("ACCELERATE_", "FSDP_")

# A shell ignores SIGINT for what it puts into the background, and nohup SIGHUP; commands under test would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files whose tests take long together, the longest first: one that was begun last would run alone at the end
LONGEST = (
    "launchers/test_launchers.py", "recipes/test_stopping.py", "engines/test_server.py", "groups/test_trainer_exact.py",
    "upkeep/test_resuming.py", "app/test_browser.py", "report/page/test_browser.py", "engines/test_parity.py",
    "run/test_full_disk.py", "recipes/test_reproduce.py", "recipes/test_evaluate.py", "recipes/test_configs.py",
    "run/test_tracking.py", "run/test_fields.py", "recipes/test_model_card.py", "test_families_vllm.py",
    "test_families.py", "recipes/test_errors.py", "reproduce/test_grid.py", "recipes/test_reproduce_stopping.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of these files first; pytest-xdist hands files out in this order (--no-loadscope-reorder)."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Collect garbage from here on: what tests import as they are collected stays."""
    gc.enable()


@pytest.fixture(autouse=True)
def _imports_stay() -> None:
    freeze_imports()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint folder of a random tiny model with a tied head."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), tied=True)


@pytest.fixture(scope="session")
def untied_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    return build_tiny_model(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Pictures of three sizes."""
    return tiny_pictures()


@pytest.fixture
def gold() -> str:
    """A well-formed completion."""
    return gold_completion("awe")


@pytest.fixture
def training_rows() -> Dataset:
    """Eight training rows with pictures of mixed sizes and prompts of mixed lengths."""
    from training import tiny_dataset

    return tiny_dataset()


@pytest.fixture(autouse=True)
def _own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainers of this process meet at a free port: Accelerate's default may belong to another run."""
    monkeypatch.setenv("MASTER_PORT", str(find_free_port()))


@pytest.fixture(autouse=True)
def _own_launch() -> Iterator[None]:
    """Forget what a test told Accelerate and Transformers of DeepSpeed or FSDP: both keep it for the process."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(LAUNCHED)}
    yield
    for name in [name for name in os.environ if name.startswith(LAUNCHED)]:
        del os.environ[name]
    os.environ.update(kept)
    if deepspeed := sys.modules.get("transformers.integrations.deepspeed"):
        deepspeed.unset_hf_deepspeed_config()


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, which Playwright can open only once in a process."""
    pytest.importorskip("playwright", reason="Playwright is not installed: pip install -e .[dev]")
    executable = find_browser()
    if executable is None:
        pytest.skip("There is no Chromium here: 'make browser' installs it where apt-get can")
    with open_browser(executable) as opened:
        yield opened
