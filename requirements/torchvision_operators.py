"""Let torchvision be imported beside a CPU build of torch; `make_venv.py` copies this file into a venv that needs it.

PyPI's x86-64 torchvision is a CUDA build: its compiled part does not load beside a CPU torch, and its import then fails
because the operators that its Python half refers to were never declared ("operator torchvision::nms does not exist").
Qwen2.5-VL's processor needs the Python half only. Declaring the operators just before that import is enough; there is
no kernel behind them, so a call to one still fails, as it would without this file.
"""

import sys
from typing import Any

OPERATORS = ("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
BACKWARD = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")


class DeclareOperators:
    """An import hook that finds nothing itself: it acts once, when torchvision is first looked up."""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        # A library's definitions last as long as the object, so the module keeps it.
        self.library = torch.library.Library("torchvision", "DEF")
        for operator in (*OPERATORS, *(f"_{name}_backward" for name in BACKWARD)):
            self.library.define(f"{operator}(Tensor x) -> Tensor")


HOOK = DeclareOperators()
sys.meta_path.insert(0, HOOK)
