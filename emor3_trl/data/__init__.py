"""Emotion data: splits as the recipes read them, and what turns a download into them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emor3_trl.data.resizing import to_pixel_budget
    from emor3_trl.data.splits import COLUMNS, SplitWriter, content_hash, count_rows, load_split, write_split

__all__ = ["COLUMNS", "SplitWriter", "content_hash", "count_rows", "load_split", "to_pixel_budget", "write_split"]


def __getattr__(name: str) -> Any:
    # Lazy: `splits` imports Datasets, which takes seconds, and a mistake on the command line is told without it.
    if name in __all__:
        from importlib import import_module

        home = "resizing" if name == "to_pixel_budget" else "splits"
        return getattr(import_module(f"emor3_trl.data.{home}"), name)
    raise AttributeError(f"module 'emor3_trl.data' has no attribute '{name}'")
