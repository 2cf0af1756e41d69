"""How fast an evaluation is: `predict_emotions` against a loop that calls `generate` for one picture after the other.

    python benchmarks/evaluate.py                  # about ten minutes on two cores
    python benchmarks/evaluate.py --arms vllm lmms_eval --rounds 5

The same random Qwen2.5-VL of 37 M parameters (float32), the same pictures of 256 image tokens and completions of 160
tokens, greedy, without reflection and label probabilities (the loop has neither), in one process, in turn:

    loop          transformers, one `generate` with a KV cache per picture
    transformers  `predict_emotions` with `TransformersEngine`, 32 pictures a batch
    vllm          `predict_emotions` with `VLLMEngine`, 32 pictures a batch
    lmms_eval     lmms-eval's own vLLM class on the same engine, 32 pictures a batch (`lmms_eval_arm.py`), if installed
    whole         the same as vllm, with reflection and label probabilities, as recipes/evaluate.py does it

Every arm must write the same tokens. Before each, vLLM forgets pictures and prompts: an evaluation shows none twice.
Figures: runs/benchmarks/evaluate.json, ratios as medians over rounds, with the smallest and the largest.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe_machine, summarise_ratios

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

IMAGE_SIDE, BATCH = 16 * 28, 32
ARMS = ("loop", "transformers", "vllm", "lmms_eval", "whole")


def rows(count: int) -> Any:
    """Return rows with distinct noisy pictures of 256 tokens."""
    import numpy as np
    from datasets import Dataset
    from PIL import Image

    from emor3_trl.emotions import EMOSET_8

    generator = np.random.default_rng(0)
    return Dataset.from_list(
        [
            {
                "id": str(number),
                "image": Image.fromarray(generator.integers(0, 255, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)),
                "emotion": EMOSET_8.labels[number % 8],
                "label_space": list(EMOSET_8.labels),
            }
            for number in range(count)
        ]
    )


def loop(model: Any, processor: Any, dataset: Any, tokens: int) -> list[str]:
    """Generate for one picture at a time, as a model card shows it."""
    import torch

    from emor3_trl.engines.policy import image_token_ids
    from emor3_trl.prompts import messages, prompt_text

    completions = []
    for row in dataset:
        conversation = messages(prompt_text("set", row["label_space"]), image=True)
        conversation[0]["content"][0] = {"type": "image"}
        text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = processor(images=[row["image"]], text=[text], return_tensors="pt")
        with torch.no_grad():
            output = model.generate(
                **inputs, do_sample=False, max_new_tokens=tokens, suppress_tokens=image_token_ids(processor)
            )
        written = output[:, inputs["input_ids"].shape[1] :]
        completions += processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    return completions


def write_words_only(folder: Path) -> None:
    """Leave a random model nothing but letters to write: what engines make of broken UTF-8 could not be compared."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    tokenizer, weights = AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")
    head = next(weight for name, weight in weights.items() if name.endswith("embed_tokens.weight"))  # tied
    for token in range(len(tokenizer)):
        if not tokenizer.decode([token]).strip().isalpha():
            head[token] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def forget_pictures(llm: Any) -> None:
    """Drop what a vLLM engine keeps of pictures and prompts: pixels, and what its tower and its layers made of them."""
    llm.reset_mm_cache()
    llm.reset_prefix_cache()
    llm.llm_engine.reset_encoder_cache()


def measure(arms: dict[str, Callable[[], list[Any]]], rounds: int, forget: Callable[[], None]) -> dict[str, Any]:
    """Run the arms in turn, once more than `rounds` to warm up, and return their seconds and what agrees.

    Args:
        arms: what writes a completion, or a `Prediction`, for each picture, by name.
        rounds: measured rounds; every other one runs the arms in the opposite order.
        forget: what each arm starts from.
    """
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in arms} for kind in ("wall", "cpu")}
    for number in range(rounds + 1):
        completions = {}
        for name in arms if number % 2 == 0 else reversed(arms):
            forget()
            start, cpu_start = time.perf_counter(), time.process_time()
            result = arms[name]()
            if number > 0:
                seconds["wall"][name].append(time.perf_counter() - start)
                seconds["cpu"][name].append(time.process_time() - cpu_start)
            completions[name] = [row if isinstance(row, str) else row.completion for row in result]
        shown = ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds["wall"].items() if times)
        print(f"round {number}: {shown}" if number else "warm-up done", flush=True)
    first = next(iter(arms))
    return {
        f"same_completions_as_{first}": {
            name: sum(a == b for a, b in zip(texts, completions[first], strict=True))
            for name, texts in completions.items()
        },
        "seconds": {name: [round(value, 2) for value in times] for name, times in seconds["wall"].items()},
        "speedups": compare(seconds["wall"]),
        "cpu_speedups": compare(seconds["cpu"]),
    }


def compare(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return how many times as fast as the loop each arm is, and the project's own beside lmms-eval."""
    pairs = [("loop", name) for name in seconds if name != "loop"] + [("lmms_eval", "vllm")]
    return {
        f"{faster} over {slower}": summarise_ratios(seconds[slower], seconds[faster])
        for slower, faster in pairs
        if slower in seconds and faster in seconds
    }


def main() -> None:
    """Build, time in turn, compare, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=160, help="of a completion")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    import torch
    from lmms_eval_arm import build_arm
    from step_setting import build_model

    from emor3_trl.engines.opening import open_engine
    from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions

    dataset = rows(args.pictures)
    options = PredictionOptions(max_tokens=args.tokens, batch_size=BATCH, reflect=False)
    whole = replace(options, reflect=True, score_labels=True)
    with tempfile.TemporaryDirectory() as temporary:
        build_model(Path(temporary))
        write_words_only(Path(temporary))
        load: dict[str, Any] = {"dtype": "float32", "max_tokens": args.tokens}
        with (
            open_engine(temporary, engine="transformers", **load) as transformers,
            open_engine(temporary, engine="vllm", **load) as vllm,
        ):
            model = transformers.model.eval()
            arms = {
                "loop": lambda: loop(model, transformers.processor, dataset, args.tokens),
                "transformers": lambda: predict_emotions(transformers, dataset, "t", options, progress=False),
                "vllm": lambda: predict_emotions(vllm, dataset, "v", options, progress=False),
                "lmms_eval": build_arm(vllm.llm, dataset, BATCH, args.tokens) if "lmms_eval" in args.arms else None,
                "whole": lambda: predict_emotions(vllm, dataset, "w", whole, progress=False),
            }
            arms = {name: arm for name, arm in arms.items() if name in args.arms and arm is not None}
            result = measure(arms, args.rounds, lambda: forget_pictures(vllm.llm))
            del arms  # one refers to the engine
    result = {
        "pictures": args.pictures,
        "completion_tokens": args.tokens,
        "threads": torch.get_num_threads(),
        "machine": describe_machine("torch", "transformers"),
    } | result
    for name, ratios in result["speedups"].items():
        print(f"{name}: {ratios['median']} times as fast [{ratios['low']}, {ratios['high']}]", flush=True)
    name = "evaluate" if set(args.arms) == set(ARMS) else f"evaluate_{'_'.join(args.arms)}"
    path = args.output_dir / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
