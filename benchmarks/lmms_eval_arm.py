"""lmms-eval as an arm of `evaluate.py`: its own vLLM class writes the completions, on the engine of the other arms.

    pip install lmms-eval                          # no pin of this project; without it the arm is left out

Its class is told the engine instead of starting one: that is the one thing that is changed. What is measured is its
`generate_until`: its messages, its PNG of each picture in base64, vLLM's chat. Its evaluator, which lists requests
before and scores completions after, is not counted. (It imports Hugging Face's `evaluate`, and
gets the benchmark of that name in this folder: nothing of it is used here.)
"""

import importlib.util
from collections.abc import Callable
from typing import Any

TASK, SPLIT = "emotions", "test"


def build_arm(llm: Any, dataset: Any, batch_size: int, max_tokens: int) -> Callable[[], list[str]] | None:
    """Return what lets lmms-eval write a greedy completion for each row; None, with a line, where it is not installed.

    Args:
        llm: the `vllm.LLM` of the other arms.
        dataset: rows with `image` and `label_space`.
        batch_size: rows per call of the engine.
        max_tokens: longest completion.
    """
    if importlib.util.find_spec("lmms_eval") is None:
        print("lmms-eval is not installed, so its arm is left out: pip install lmms-eval", flush=True)
        return None
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.chat import vllm as chat
    from lmms_eval.models.simple import vllm as simple

    from emor3_trl.prompts import prompt_text

    stock = simple.LLM
    simple.LLM = lambda **_: llm
    try:
        model = chat.VLLM(
            model="the engine that runs", batch_size=batch_size, trust_remote_code=False, disable_log_stats=True,
            max_new_tokens=max_tokens,
        )  # fmt: skip
    finally:
        simple.LLM = stock
    model.task_dict = {TASK: {SPLIT: dataset}}

    def write_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
        text = prompt_text("set", row["label_space"])
        content = [{"type": "image", "url": row["image"]}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    decoding = {"max_new_tokens": max_tokens, "temperature": 0, "top_p": 1.0}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", write_messages, decoding, row, TASK, SPLIT),
            idx=row,
            metadata={"task": TASK, "doc_id": row, "repeats": 1},
        )
        for row in range(len(dataset))
    ]
    return lambda: [result.text for result in model.generate_until(requests)]
