"""One arm of `step_cost.py`: a trainer in a process of its own, which takes a step whenever it is told to.

python benchmarks/step_arms.py ARM FOLDER STEPS     # started by step_cost.py: a line in, a step, a line of JSON out
"""

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from step_meter import Meter
from step_setting import COMPLETION, GROUP, completion_ids, prompt, rows


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
        # The completions are not the engine's own, so nothing is to be corrected: each ratio is about 1
        "vllm_importance_sampling_clip_min": 0.999,
        "vllm_importance_sampling_clip_max": 1.0,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 1,
    }
    processor = AutoProcessor.from_pretrained(folder / "model", padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32")
    data = rows(prompt(processor), 4)
    if arm in "AT":
        if arm == "T":  # what TRL has for this step on a CPU, and in the same arithmetic
            options["vllm_importance_sampling_correction"] = False
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
        if arm == "P":
            keep_old_pass()
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

    from emor3_trl.engines.colocated import collapse_image_tokens
    from emor3_trl.engines.opening import engine_options, prepare_cpu_engine

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


def keep_old_pass() -> None:
    """Let the trainer take its step as it did before: a pass for old log-probabilities, and one for every group."""
    from emor3_trl.groups.one_pass import OnePassTrainer
    from emor3_trl.groups.skipping import SkippingTrainer

    OnePassTrainer._scores_once = SkippingTrainer._skips_groups = False


def ReferenceReflection() -> type:  # noqa: N802 - a class, made where the package can be imported
    """Return a trainer that reflects as the reference implementation does: all questions, twice, unconstrained."""
    from vllm import SamplingParams

    from emor3_trl import EmoR3Trainer
    from emor3_trl.engines.choices import QuestionEncoder
    from emor3_trl.engines.engine import Question
    from emor3_trl.prompts import COHERENCE_QUESTION, CONSISTENCY_QUESTION
    from emor3_trl.reflection import Reflection
    from emor3_trl.thinking import parse

    class Trainer(EmoR3Trainer):
        def _reflect(self, texts):
            rows = self.rollout.rows
            encoder = QuestionEncoder(self.processing_class)
            llm = self.vllm_generation.llm
            # An untrained model never stops, a trained one after a word: eight tokens are what that costs at most.
            params = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=8, ignore_eos=True)
            for question, with_image in ((CONSISTENCY_QUESTION, True), (COHERENCE_QUESTION, False)):
                prompts = []
                for row, text in zip(rows, texts, strict=True):
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
            return [Reflection("Yes", row["label_space"][0]) for row in rows]

    return Trainer


def use_fixed_completions(trainer: Any) -> None:
    """Let the engine generate, and train on completions that are the same in every arm."""
    stock = trainer._generate_single_turn
    ids = [completion_ids(trainer.processing_class, number) for number in range(GROUP)]
    assert all(len(row) == COMPLETION for row in ids)

    def generate(prompt_ids, *args, **kwargs):
        made, _ = stock(prompt_ids, *args, **kwargs)
        assert all(len(row) == COMPLETION for row in made)
        return [list(row) for row in ids], [[-6.5] * COMPLETION for _ in ids]

    trainer._generate_single_turn = generate


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
