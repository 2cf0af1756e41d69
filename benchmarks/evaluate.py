"""How fast an evaluation is: `predict_emotions` against a loop that calls `generate` for one picture after the other.

    python benchmarks/evaluate.py                  # about ten minutes on two cores

The same random Qwen2.5-VL of 37 M parameters (float32), the same pictures of 256 image tokens and completions of 160
tokens, greedy, without reflection and label probabilities (the loop has neither), in one process, in turn:

    loop          transformers, one `generate` with a KV cache per picture
    transformers  `predict_emotions` with `TransformersEngine`, 32 pictures a batch
    vllm          `predict_emotions` with `VLLMEngine`, 32 pictures a batch
    whole         the same as vllm, with reflection and label probabilities, as recipes/evaluate.py does it

Every arm must write the same tokens. Before each, vLLM forgets the pictures: an evaluation shows none twice. Figures:
runs/benchmarks/evaluate.json, ratios as medians over rounds, with the smallest and the largest.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

IMAGE_SIDE, TOKENS = 16 * 28, 160


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


def loop(model: Any, processor: Any, dataset: Any) -> list[str]:
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
                **inputs, do_sample=False, max_new_tokens=TOKENS, suppress_tokens=image_token_ids(processor)
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
    """Drop what a vLLM engine keeps of pictures: their pixels, and what its vision tower made of them."""
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


def main() -> None:
    """Build, time in turn, compare, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    import torch
    from step_setting import build_model

    from emor3_trl.engines.opening import open_engine
    from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions

    dataset = rows(args.pictures)
    options = PredictionOptions(max_tokens=TOKENS, batch_size=32, reflect=False)
    whole = replace(options, reflect=True, score_labels=True)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        build_model(Path(temporary))
        write_words_only(Path(temporary))
        load = {"dtype": "float32", "max_tokens": TOKENS}
        with (
            open_engine(temporary, engine="transformers", **load) as transformers,
            open_engine(temporary, engine="vllm", **load) as vllm,
        ):
            model = transformers.model.eval()
            arms = {
                "loop": lambda: loop(model, transformers.processor, dataset),
                "transformers": lambda: predict_emotions(transformers, dataset, "t", options, progress=False),
                "vllm": lambda: predict_emotions(vllm, dataset, "v", options, progress=False),
                "whole": lambda: predict_emotions(vllm, dataset, "w", whole, progress=False),
            }
            for number in range(args.rounds + 1):
                written = {}
                for name, run in arms.items():
                    forget_pictures(vllm.llm)
                    start = time.perf_counter()
                    result = run()
                    seconds.setdefault(name, []).append(time.perf_counter() - start)
                    written[name] = [each if isinstance(each, str) else each.completion for each in result]
                same = {
                    name: sum(a == b for a, b in zip(texts, written["loop"], strict=True))
                    for name, texts in written.items()
                }
                shown = ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds.items())
                print(f"{'warm-up' if number == 0 else f'round {number}'}: {shown}", flush=True)
    seconds = {name: times[1:] for name, times in seconds.items()}
    result: dict[str, Any] = {
        "pictures": args.pictures,
        "completion_tokens": TOKENS,
        "threads": torch.get_num_threads(),
        "same_completions_as_loop": same,
        "seconds": {name: [round(value, 2) for value in times] for name, times in seconds.items()},
    }
    for name in ("transformers", "vllm", "whole"):
        ratios = [slow / fast for slow, fast in zip(seconds["loop"], seconds[name], strict=True)]
        result[f"{name}_speedup"] = round(statistics.median(ratios), 2)
        result[f"{name}_speedup_spread"] = [round(min(ratios), 2), round(max(ratios), 2)]
        print(f"{name}: {result[f'{name}_speedup']}x the loop {result[f'{name}_speedup_spread']}", flush=True)
    (args.output_dir / "evaluate.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"same completions as the loop, of {args.pictures}: {same}")


if __name__ == "__main__":
    main()
