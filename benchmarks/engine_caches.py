"""Do the engine's caches stay bounded? Two hundred steps, and what each cache holds after each of them.

    python benchmarks/engine_caches.py             # about four minutes on two cores

A small Qwen2.5-VL is trained with its vision tower on 64 pictures that come back in every epoch. Its engine generates,
and then well-formed completions, others in each step, take the place of what an untrained model writes, so that
reflection has something to ask. After each step: pictures in vLLM's encoder cache (scheduler's and worker's), blocks of
the prefix cache, processed pictures that vLLM keeps (they do not depend on the weights), and the memory of the process.
Figures: runs/benchmarks/engine_caches.json and .png.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CURVES = {
    "encoder_cache": "pictures in the encoder cache",
    "worker_encoder_cache": "pictures in the worker's encoder cache",
    "prefix_blocks": "blocks in the prefix cache",
    "processed_pictures": "processed pictures kept",
    "reflection_requests": "questions of the reflection",
    "memory_mib": "memory of the process, MiB",
}
LABELS = ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]


def read(trainer: Any) -> dict[str, float]:
    """Return what the engine's caches hold now."""
    engine = trainer.vllm_generation.llm.llm_engine
    core = engine.engine_core.engine_core
    processed = getattr(engine.renderer.mm_processor_cache, "_cache", ())
    return {
        "step": trainer.state.global_step,
        "encoder_cache": len(core.scheduler.encoder_cache_manager.cached),
        "worker_encoder_cache": len(core.model_executor.driver_worker.worker.model_runner.encoder_cache),
        "prefix_blocks": len(core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block),
        "processed_pictures": len(processed),
        "reflection_requests": trainer._metrics["train"]["reflection/requests"][-1],
        "memory_mib": round(resident() / 2**20, 1),
    }


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def rows(count: int) -> Any:
    """Return rows with distinct noisy pictures of 64 tokens."""
    import numpy as np
    from datasets import Dataset
    from PIL import Image

    from emor3_trl.prompts import prompt_text

    generator = np.random.default_rng(0)
    return Dataset.from_list(
        [
            {
                "image": Image.fromarray(generator.integers(0, 255, (224, 224, 3), dtype=np.uint8)),
                "prompt": [{"role": "user", "content": prompt_text("set", LABELS)}],
                "emotion": LABELS[number % len(LABELS)],
                "label_space": LABELS,
            }
            for number in range(count)
        ]
    )


def write_well_formed(trainer: Any) -> None:
    """Let the engine generate, and go on with well-formed completions that were not there before."""
    import itertools

    stock, numbers = trainer._generate_single_turn, itertools.count()
    tokenizer = trainer.processing_class.tokenizer

    def completion(number: int) -> list[int]:
        steps = [f"<step{i}>picture {number} of {i}</step{i}>" for i in (1, 2, 3)]
        return tokenizer("\n".join(steps) + f"\n\\boxed{{{LABELS[number % len(LABELS)]}}}<|im_end|>")["input_ids"]

    def generate(prompt_ids, *args, **kwargs):
        made, _ = stock(prompt_ids, *args, **kwargs)
        written = [completion(next(numbers)) for _ in made]
        return written, [[0.0] * len(ids) for ids in written]

    trainer._generate_single_turn = generate


def plot(curve: list[dict[str, float]], path: Path) -> None:
    """Draw a panel for each cache."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, CURVES.items(), strict=True):
        axis.plot([point["step"] for point in curve], [point[name] for point in curve])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train, record, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    from step_setting import build_model
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.rewards import completion_text

    def words(completions: list, **_: Any) -> list[float]:
        return [float(len(completion_text(completion)) % 7) for completion in completions]

    curve: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_model(folder / "model", hidden=64, layers=2, vision_hidden=128)
        trainer = EmoR3Trainer(
            model=AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32"),
            args=EmoR3Config(
                output_dir=str(folder / "run"),
                per_device_train_batch_size=16,
                num_generations=4,
                max_completion_length=64,
                max_steps=args.steps,
                learning_rate=1e-4,
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
                vllm_max_model_length=1024,
                vllm_gpu_memory_utilization=0.1,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
                parity_warn=1e9,  # the completions are not the engine's
                parity_stop=1e9,
            ),
            train_dataset=rows(64),
            processing_class=AutoProcessor.from_pretrained(folder / "model", padding_side="left"),
            reward_funcs=words,
        )

        class Record(TrainerCallback):
            def on_step_end(self, arguments, state, control, **kwargs):
                curve.append(read(trainer))
                if state.global_step in (1, 2) or state.global_step % 25 == 0:
                    print(" ".join(f"{name} {value:g}" for name, value in curve[-1].items()), flush=True)

        write_well_formed(trainer)
        trainer.add_callback(Record())
        trainer.train()
    (args.output_dir / "engine_caches.json").write_text(json.dumps({"curve": curve}, indent=1) + "\n")
    plot(curve, args.output_dir / "engine_caches.png")
    print(f"Written to {args.output_dir}: engine_caches.json, engine_caches.png")


if __name__ == "__main__":
    main()
