"""What an optimiser step costs: stock TRL against this trainer, part by part, on the same completions.

    python benchmarks/step_cost.py                 # about half an hour on two cores
    python benchmarks/step_cost.py --pairs 1 --points 8x64   # a look
    python benchmarks/step_cost.py --points        # the four arms only; --pairs 0: the curves only

Four trainers, each in a process of its own, take steps in turn, so that whatever disturbs the machine disturbs all:

    A  trl.GRPOTrainer, accuracy and format, with only the repair of image tokens that it needs to be right
    B  EmoR3Trainer without reflection
    C  EmoR3Trainer with reflection
    D  EmoR3Trainer with reflection as the reference implementation does it: two unconstrained decodes, one after the
       other, nothing asked once only, no prefix cache

Weights, pictures, seeds and completions are equal: every trainer lets its engine generate, and then trains on the same
well-formed completions of the wanted length. Ratios are medians over rounds, with the smallest and the largest.
The curves time forward and backward alone, over group sizes and picture sizes, beside the arithmetic bound
G(P+V+T) / (P+V+G·T). Figures: runs/benchmarks/step_cost.json and .png.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARMS = {
    "A": "stock TRL, plain GRPO",
    "B": "EmoR3Trainer, no reflection",
    "C": "EmoR3Trainer",
    "D": "EmoR3Trainer, reflection as the reference",
}
PARTS = ("rollout", "reflection", "images", "old", "reference", "policy", "optimizer", "weight sync")
TEXT, COMPLETION, GROUP, IMAGE = 120, 160, 8, 676
SIDES = {64: (8, 8), 256: (16, 16), 676: (26, 26), 1300: (26, 50)}  # image tokens, of 28 x 28 pixels each
POINTS = [(2, 676), (4, 676), (8, 676), (16, 676), (8, 64), (8, 256), (8, 1300), (2, 64)]
LABELS = ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]


# --- what all arms share


def build_model(folder: Path, hidden: int = 512, layers: int = 9, vision_hidden: int = 320) -> None:
    """Save a random Qwen2.5-VL and its processor; of 37 M parameters, unless it is told otherwise."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from emor3_trl.data.demo_processor import build_processor

    processor = build_processor()
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 1400}
    ids = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": max(hidden // 256, 1),
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 6,
            "hidden_size": vision_hidden,
            "intermediate_size": 768,
            "num_heads": 8,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [2, 5],
            "window_size": 112,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def prompt(processor: Any) -> str:
    """Return the structured prompt, brought to `TEXT` tokens with its chat template and without the picture's own."""
    from emor3_trl.prompts import messages, prompt_text

    words = prompt_text("set", LABELS).split(" ")

    def tokens(text: str) -> int:
        conversation = messages(text, image=True)
        conversation[0]["content"][0] = {"type": "image"}
        rendered = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        return len(processor.tokenizer(rendered)["input_ids"]) - 1

    while tokens(" ".join(words)) > TEXT:
        words.pop(-2)
    while tokens(" ".join(words)) < TEXT:
        words.insert(-1, "a")
    return " ".join(words)


def completion_ids(processor: Any, number: int) -> list[int]:
    """Return a well-formed completion of `COMPLETION` tokens, distinct for each number; a third of it in each step."""
    import random

    from emor3_trl.data.demo_texts import every_text

    rng = random.Random(number)
    words = " ".join(every_text()).split()
    steps: list[list[str]] = [[], [], []]
    ids: list[int] = []
    for turn in range(10 * COMPLETION):
        added = [*steps]
        added[turn % 3] = [*steps[turn % 3], rng.choice(words) if len(ids) < COMPLETION - 8 else "a"]
        parts = [f"<step{i}>{' '.join(text) or 'so'}</step{i}>" for i, text in enumerate(added, start=1)]
        text = "\n".join(parts) + f"\n\\boxed{{{LABELS[number % len(LABELS)]}}}"
        longer = [*processor.tokenizer(text)["input_ids"], processor.tokenizer.eos_token_id]
        if len(longer) > COMPLETION:
            break
        steps, ids = added, longer
    return ids + ids[-1:] * (COMPLETION - len(ids))


def rows(text: str, count: int) -> Any:
    """Return rows with noisy pictures of `IMAGE` tokens, stored as PNG."""
    import numpy as np
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    height, width = (28 * side for side in SIDES[IMAGE])
    generator = np.random.default_rng(0)
    small = [generator.integers(0, 255, (height // 14, width // 14, 3), dtype=np.uint8) for _ in range(count)]
    features = Features(
        {
            "image": ImageFeature(),
            "prompt": List({"role": Value("string"), "content": Value("string")}),
            "emotion": Value("string"),
            "label_space": List(Value("string")),
        }
    )
    data = [
        {
            "image": Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC),
            "prompt": [{"role": "user", "content": text}],
            "emotion": LABELS[number % len(LABELS)],
            "label_space": LABELS,
        }
        for number, pixels in enumerate(small)
    ]
    return Dataset.from_list(data, features=features)


# --- one arm: a process that takes a step whenever it is told to


def work(arm: str, folder: Path, steps: int) -> None:
    """Train one arm; read a line before each step, write a line of JSON after it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from emor3_trl import EmoR3Config, EmoR3Trainer
    from emor3_trl.rewards import accuracy_reward, format_reward

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    meter = Meter()

    class Turns(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.wait()

        def on_step_end(self, args, state, control, **kwargs):
            print(json.dumps(meter.read()), file=answers, flush=True)
            if state.global_step < steps:
                self.wait()

        def wait(self) -> None:
            print(json.dumps("ready"), file=answers, flush=True)
            sys.stdin.readline()
            gc.collect()
            meter.start()

    options: dict[str, Any] = {
        "output_dir": str(folder / arm),
        "per_device_train_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": COMPLETION,
        "max_steps": steps,
        "learning_rate": 1e-6,
        "beta": 0.01,
        "loss_type": "bnpo",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.1,
        "vllm_max_model_length": 2048,
        "generation_kwargs": {"ignore_eos": True},
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 1,
    }
    processor = AutoProcessor.from_pretrained(folder / "model", padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32")
    data = rows(prompt(processor), 4)
    if arm == "A":
        with stock_engine():
            trainer = GRPOTrainer(
                model=model,
                args=GRPOConfig(**options),
                train_dataset=data,
                reward_funcs=[accuracy_reward, format_reward],
                processing_class=processor,
            )
    else:
        if arm == "D":
            options["vllm_engine_options"] = {"enable_prefix_caching": False}
        trainer_class = ReferenceReflection() if arm == "D" else EmoR3Trainer
        trainer = trainer_class(
            model=model,
            args=EmoR3Config(**options, lambda1=0.0 if arm == "B" else 0.1, parity_warn=1e9, parity_stop=1e9),
            train_dataset=data,
            processing_class=processor,
        )
    use_fixed_completions(trainer)
    meter.attach(trainer)
    trainer.add_callback(Turns())
    trainer.train()


@contextmanager
def stock_engine():
    """TRL's own engine for TRL's own trainer: its prompts are repaired, and a CPU's options are set, no more.

    What this recipe adds for reflection (its logits processor, scheduling that is not asynchronous) is left out.
    """
    import trl.generation.vllm_generation as trl_vllm
    import trl.trainer.grpo_trainer as trl_grpo
    from trl.generation.vllm_generation import VLLMGeneration

    from emor3_trl.rollout import collapse_image_tokens, engine_options, prepare_cpu_engine

    class Repaired(VLLMGeneration):
        def generate(self, prompts, images, num_generations, profiler=None):
            token = self.processing_class.image_token_id
            return super().generate(
                [collapse_image_tokens(ids, token) for ids in prompts], images, num_generations, profiler
            )

    prepare_cpu_engine()
    llm, stock = trl_vllm.LLM, trl_grpo.VLLMGeneration
    options = engine_options("float32")
    del options["logits_processors"], options["async_scheduling"]
    trl_vllm.LLM = lambda **kwargs: llm(**(kwargs | options))
    trl_grpo.VLLMGeneration = Repaired
    try:
        yield
    finally:
        trl_vllm.LLM, trl_grpo.VLLMGeneration = llm, stock


def ReferenceReflection() -> type:  # noqa: N802 - a class, made where the package can be imported
    """Return a trainer that reflects as the reference implementation does: all questions, twice, unconstrained."""
    from vllm import SamplingParams

    from emor3_trl import EmoR3Trainer
    from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
    from emor3_trl.reflection import Question, QuestionEncoder, Reflection
    from emor3_trl.thinking import parse

    class Trainer(EmoR3Trainer):
        def _reflect(self, inputs, texts):
            encoder = QuestionEncoder(self.processing_class)
            llm = self.vllm_generation.llm
            # An untrained model never stops, a trained one after a word: eight tokens are what that costs at most.
            params = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=8, ignore_eos=True)
            for question, with_image in ((CONSISTENCY_QUESTION, True), (COHERENCE_QUESTION, False)):
                prompts = []
                for row, text in zip(inputs, texts, strict=True):
                    steps = parse(text)
                    asked = question.format(
                        trigger=steps.trigger, feeling=steps.feeling, labels=", ".join(row["label_space"])
                    )
                    picture = row["image"] if with_image else None
                    ids = encoder.prompt_ids(Question(asked, ("Yes", "No"), picture))
                    request: dict[str, Any] = {"prompt_token_ids": ids}
                    if with_image:
                        request["multi_modal_data"] = {"image": picture}
                    prompts.append(request)
                llm.generate(prompts, params, use_tqdm=False)
            return [Reflection("Yes", row["label_space"][0]) for row in inputs]

    return Trainer


def use_fixed_completions(trainer: Any) -> None:
    """Let the engine generate, and train on completions that are the same in every arm."""
    stock = trainer._generate_single_turn
    ids = [completion_ids(trainer.processing_class, number) for number in range(GROUP)]
    assert all(len(row) == COMPLETION for row in ids)

    def generate(prompt_ids, *args, **kwargs):
        made, _ = stock(prompt_ids, *args, **kwargs)
        assert all(len(row) == COMPLETION for row in made)
        return [list(row) for row in ids], [[float("nan")] * COMPLETION for _ in ids]

    trainer._generate_single_turn = generate


class Meter:
    """Seconds, tokens and peak memory of a step, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.patches: dict[str, int] = defaultdict(int)
        self.peak = 0
        self.part: str | None = None
        self.began = 0.0

    def start(self) -> None:
        """Forget the last step."""
        self.seconds.clear()
        self.tokens.clear()
        self.patches.clear()
        self.peak = 0
        self.began = time.perf_counter()

    def read(self) -> dict[str, Any]:
        """Return the step's figures."""
        return {
            "step": time.perf_counter() - self.began,
            "seconds": dict(self.seconds),
            "tokens": dict(self.tokens),
            "patches": dict(self.patches),
            "peak": self.peak,
        }

    def timed(self, part: str, function: Any) -> Any:
        """Return a function whose time is added to a part, and whose forwards count for it."""

        def run(*args, **kwargs):
            outer, self.part = self.part, part
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - begin
                self.part = outer

        return run

    def attach(self, trainer: Any) -> None:
        """Measure a trainer from now on."""
        import torch

        engine = trainer.vllm_generation
        engine.sync_weights = self.timed("weight sync", engine.sync_weights)
        engine.generate = self.timed("rollout", engine.generate)
        if hasattr(trainer, "_reflect"):
            trainer._reflect = self.timed("reflection", trainer._reflect)
        # Outputs can't tell: a request for n completions is n requests inside, and has the last one's cached tokens.
        scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
        stock_schedule = scheduler.schedule

        def schedule(*args, **kwargs):
            scheduled = stock_schedule(*args, **kwargs)
            self.tokens[self.part or ""] += scheduled.total_num_scheduled_tokens
            return scheduled

        scheduler.schedule = schedule
        image_processor = trainer.processing_class.image_processor
        stock_class = type(image_processor)
        meter, stock_call = self, stock_class.__call__

        def call(self, *args, **kwargs):
            own = self is image_processor  # vLLM has one of its own
            return (meter.timed("images", stock_call) if own else stock_call)(self, *args, **kwargs)

        stock_class.__call__ = call
        stock_logps = trainer._get_per_token_logps_and_entropies

        def logps(model, *args, **kwargs):
            if torch.is_grad_enabled():
                return stock_logps(model, *args, **kwargs)
            part = "reference" if model is trainer.ref_model else "old"
            return self.timed(part, stock_logps)(model, *args, **kwargs)

        trainer._get_per_token_logps_and_entropies = logps
        for model in (trainer.model, trainer.ref_model):
            model.model.language_model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)
            model.model.visual.register_forward_pre_hook(self._count_patches, with_kwargs=True)
        stock_step, stock_inputs = trainer.training_step, trainer._prepare_inputs
        inside: dict[str, float] = {}

        def prepare_inputs(*args, **kwargs):
            begin = time.perf_counter()
            outer, self.part = self.part, None
            inputs = stock_inputs(*args, **kwargs)
            self.part = outer
            measured = time.perf_counter()
            gc.collect()
            inside["rss"] = reset_peak()
            inside["seconds"] = time.perf_counter() - begin
            self.began += time.perf_counter() - measured  # measuring is no part of a step
            return inputs

        def training_step(*args, **kwargs):
            loss = self.timed("policy", stock_step)(*args, **kwargs)
            self.seconds["policy"] -= inside["seconds"]
            self.peak = max(self.peak, peak_rss() - inside["rss"])
            return loss

        trainer._prepare_inputs, trainer.training_step = prepare_inputs, training_step
        stock_create = trainer.create_optimizer

        def create_optimizer(*args, **kwargs):
            optimizer = stock_create(*args, **kwargs)
            if not hasattr(optimizer, "measured"):
                optimizer.step, optimizer.measured = self.timed("optimizer", optimizer.step), True
            return optimizer

        trainer.create_optimizer = create_optimizer

    def _count_tokens(self, module: Any, args: tuple, kwargs: dict) -> None:
        embeds = kwargs["inputs_embeds"]
        self.tokens[self.part or ""] += embeds.shape[0] * embeds.shape[1]

    def _count_patches(self, module: Any, args: tuple, kwargs: dict) -> None:
        self.patches[self.part or ""] += (args[0] if args else kwargs["hidden_states"]).shape[0]


def reset_peak() -> int:
    """Start a new peak of resident memory, and return what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_rss() -> int:
    """Return the peak of resident memory since `reset_peak`, in bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


# --- the curves: forward and backward alone


def measure_point(folder: Path, group: int, image: int, pairs: int) -> dict[str, Any]:
    """Time forward and backward of a group, alternately as TRL does it and packed, in this process."""
    import torch
    from transformers import AutoModelForImageTextToText
    from trl.trainer.utils import add_fused_lm_head

    from emor3_trl import shared_prefix

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32")
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    token, (height, width) = model.config.image_token_id, SIDES[image]
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(20, 700, (TEXT,), generator=generator)
    own = torch.cat([text[:4], torch.full((image,), token), text[4:]])
    ids = torch.cat([own.expand(group, -1), torch.randint(20, 700, (group, COMPLETION), generator=generator)], dim=1)
    mask = torch.ones_like(ids)
    pixels = torch.randn(4 * image, 1176, generator=generator).repeat(group, 1)
    grid = torch.tensor([[1, 2 * height, 2 * width]]).repeat(group, 1)
    weights = torch.randn(group, COMPLETION, generator=generator)

    def stock() -> Any:
        shared_prefix.restore(model)
        labels = ids.clone()
        labels[:, :-COMPLETION] = -100
        output = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            pixel_values=pixels,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == token).int(),
            fused_lm_head=True,
        )
        return output.log_probs[:, -COMPLETION:]

    def packed() -> Any:
        shared_prefix.install(model)
        row = shared_prefix.pack(ids, mask, COMPLETION, model.model.get_rope_index, token, pixels, grid, [1] * group)
        return row.unpack(model(**row.inputs(), fused_lm_head=True).log_probs)

    def run(score: Any) -> tuple[float, int, Any]:
        model.zero_grad()
        gc.collect()
        resident, begin = reset_peak(), time.perf_counter()
        values = score()
        (values * weights).sum().backward()
        return time.perf_counter() - begin, peak_rss() - resident, values.detach()

    run(packed)  # warm up
    records = []
    for _ in range(pairs):
        (a, peak_a, stock_values), (b, peak_b, packed_values) = run(stock), run(packed)
        records.append({"gain": a / b, "stock": a, "packed": b, "memory": peak_b / peak_a})
        difference = (stock_values - packed_values).abs().max().item()
    bound = group * (TEXT + image + COMPLETION) / (TEXT + image + group * COMPLETION)
    gains = [record["gain"] for record in records]
    return {
        "group": group,
        "image_tokens": image,
        "bound": round(bound, 3),
        "gain": spread(gains),
        "share_of_bound": round(statistics.median(gains) / bound, 3),
        "seconds_stock": round(statistics.median(record["stock"] for record in records), 3),
        "seconds_packed": round(statistics.median(record["packed"] for record in records), 3),
        "peak_memory_ratio": round(statistics.median(record["memory"] for record in records), 3),
        "largest_difference": difference,
    }


# --- the whole: processes, ratios, report


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


class Arm:
    """A trainer in a process of its own."""

    def __init__(self, name: str, folder: Path, steps: int) -> None:
        command = [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--steps", str(steps)]
        self.log = (folder / f"{name}.log").open("w")
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment()
        )
        self._answer()

    def step(self) -> dict[str, Any]:
        """Take one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                self.log.flush()
                raise RuntimeError(f"{self.name} stopped:\n{Path(self.log.name).read_text()[-3000:]}")
            answer = json.loads(line)
            if answer != "ready" or not hasattr(self, "started"):
                self.started = True
                return answer


def environment() -> dict[str, str]:
    """Return the environment of an arm: large blocks go back to the system, so that peaks are this step's own."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    memory = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    return {**os.environ, **quiet, **memory, "OMP_WAIT_POLICY": "passive"}


def main() -> None:
    """Run all arms in turn, then the curves; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds of the four arms, after a warm-up")
    parser.add_argument("--curve_pairs", type=int, default=3, help="pairs at each point of the curves")
    parser.add_argument("--points", nargs="*", help="points of the curves as GxIMAGE, such as 8x676; all by default")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.steps)
        return
    if args.point:
        group, image = map(int, args.point.split("x"))
        print(json.dumps(measure_point(args.folder, group, image, args.curve_pairs)))
        return
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_model(folder / "model")
        rounds = run_arms(folder, args.pairs) if args.pairs else []
        names = args.points if args.points is not None else [f"{group}x{image}" for group, image in POINTS]
        curves = []
        for name in names:
            command = [sys.executable, __file__, "--point", name, "--folder", temporary]
            command += ["--curve_pairs", str(args.curve_pairs)]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-3000:])
            curves.append(json.loads(done.stdout.splitlines()[-1]))
            point = curves[-1]
            print(
                f"G {point['group']:>2}, {point['image_tokens']:>4} image tokens: forward+backward "
                f"{point['gain']['median']:.2f} x faster [{point['gain']['low']:.2f}, {point['gain']['high']:.2f}], "
                f"bound {point['bound']:.2f}, memory {point['peak_memory_ratio']:.2f}",
                flush=True,
            )
    path = args.output_dir / "step_cost.json"  # what is not measured now is kept from before
    result = json.loads(path.read_text()) if path.is_file() else {}
    result |= {**summary(rounds), "rounds": rounds} if rounds else {}
    result |= {"curves": curves} if curves else {}
    path.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n")
    if curves:
        plot(curves, args.output_dir / "step_cost.png")
    print(f"Written to {args.output_dir}: step_cost.json{', step_cost.png' if curves else ''}")


def run_arms(folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Start the four arms, then let each take a step in turn; the first round warms up and is not counted."""
    arms = []
    for name, title in ARMS.items():
        print(f"starting {name}: {title}", flush=True)
        arms.append(Arm(name, folder, pairs + 1))
    rounds = []
    for number in range(pairs + 1):
        # the order rotates, so that no arm always follows the same one
        order = arms[number % len(arms) :] + arms[: number % len(arms)]
        figures = {arm.name: arm.step() for arm in order}
        steps = ", ".join(f"{name} {figures[name]['step']:.1f} s" for name in ARMS)
        print(f"{'warm-up' if number == 0 else f'round {number}'}: {steps}", flush=True)
        if number:
            rounds.append({name: figures[name] for name in ARMS})
    for arm in arms:
        arm.process.wait(timeout=120)
    return rounds


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios of the rounds, and print them with the parts of a step."""

    def ratios(over: str, under: str, value: Any) -> dict[str, float]:
        return spread([value(one[over]) / value(one[under]) for one in rounds])

    def training(arm: dict[str, Any]) -> float:
        return sum(arm["seconds"][part] for part in ("old", "reference", "policy"))

    def computed(arm: dict[str, Any]) -> float:
        # a backward does twice the work of its forward: the policy's tokens count three times
        return sum(count * (3 if part == "policy" else 1) for part, count in arm["tokens"].items())

    result = {
        "whole_step_ratio": ratios("C", "A", lambda arm: arm["step"]),
        "step_ratio_without_reflection": ratios("B", "A", lambda arm: arm["step"]),
        "training_ratio": ratios("C", "A", training),
        "image_processing_ratio": ratios("C", "A", lambda arm: arm["seconds"]["images"]),
        "peak_memory_ratio": ratios("C", "A", lambda arm: arm["peak"]),
        "reflection_token_share": spread([one["C"]["tokens"]["reflection"] / computed(one["C"]) for one in rounds]),
        "reflection_time_share": spread([one["C"]["seconds"]["reflection"] / one["C"]["step"] for one in rounds]),
        "reflection_tokens_vs_reference": ratios("D", "C", lambda arm: arm["tokens"]["reflection"]),
        "reflection_seconds_vs_reference": ratios("D", "C", lambda arm: arm["seconds"]["reflection"]),
    }

    def split(value: Any, parts: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
        return {part: {name: spread([value(one[name], part) for one in rounds]) for name in ARMS} for part in parts}

    def seconds(arm: dict[str, Any], part: str) -> float:
        if part == "rest":
            return arm["step"] - sum(arm["seconds"].values())
        return arm["step"] if part == "step" else arm["seconds"].get(part, 0.0)

    def tokens(arm: dict[str, Any], part: str) -> float:
        return sum(arm["patches"].values()) if part == "vision patches" else arm["tokens"].get(part, 0)

    def row(part: str, cells: list[float], form: str) -> None:
        print(f"  {part:<26}" + "".join(f"{cell:>10{form}}" for cell in cells))

    shared = [part for part in PARTS if all(one["A"]["seconds"].get(part) for one in rounds)]
    splits: dict[str, Any] = {
        "seconds": split(seconds, (*PARTS, "rest", "step")),
        "tokens": split(tokens, ("rollout", "reflection", "old", "reference", "policy", "vision patches")),
        "peak_bytes": split(dict.__getitem__, ("peak",))["peak"],
        "part_ratios": {part: ratios("C", "A", lambda arm, part=part: arm["seconds"][part]) for part in shared},
    }
    print(f"\n{'seconds of a step (median)':<28}" + "".join(f"{name:>10}" for name in ARMS))
    for part, arms in splits["seconds"].items():
        row(part, [arms[name]["median"] for name in ARMS], ".2f")
    print(f"{'tokens of a step':<28}" + "".join(f"{name:>10}" for name in ARMS))
    for part, arms in splits["tokens"].items():
        row(part, [arms[name]["median"] for name in ARMS], ",.0f")
    print("peak of forward+backward")
    row("MiB", [splits["peak_bytes"][name]["median"] / 2**20 for name in ARMS], ",.0f")
    print("\nseconds of C over those of A")
    for part, value in splits["part_ratios"].items():
        print(f"  {part:<34}{value['median']:>8.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    print()
    for name, value in result.items():
        print(f"  {name:<34}{value['median']:>8.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    return {name: value["median"] for name, value in result.items()} | {"spread": result} | splits


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch
    import transformers
    import trl
    import vllm

    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, vllm)}
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw measured gains beside the bound, over group size and over image tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    views = (
        ("G, completions per prompt (676 image tokens)", "group", [p for p in curves if p["image_tokens"] == IMAGE]),
        ("image tokens (G 8)", "image_tokens", [p for p in curves if p["group"] == GROUP]),
    )
    for axis, (title, key, points) in zip(panels, views, strict=True):
        points = sorted(points, key=lambda point: point[key])
        where = [point[key] for point in points]
        gains = [point["gain"]["median"] for point in points]
        errors = [
            [gain - point["gain"]["low"] for gain, point in zip(gains, points, strict=True)],
            [point["gain"]["high"] - gain for gain, point in zip(gains, points, strict=True)],
        ]
        axis.errorbar(where, gains, yerr=errors, marker="o", capsize=3, label="measured, forward + backward")
        axis.plot(where, [point["bound"] for point in points], "--", color="0.4", label="bound by token count")
        axis.set_xlabel(title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(where, [str(value) for value in where])
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    panels[0].set_ylabel("times faster than stock")
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
