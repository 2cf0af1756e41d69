"""Emotion data: splits as the recipes read them, and what turns a download into them."""

from emor3_trl.data.resizing import to_pixel_budget
from emor3_trl.data.splits import COLUMNS, SplitWriter, content_hash, count_rows, load_split, write_split

__all__ = ["COLUMNS", "SplitWriter", "content_hash", "count_rows", "load_split", "to_pixel_budget", "write_split"]
