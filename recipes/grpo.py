"""EMO-R3: GRPO with structured emotional thinking and the reflective reward (paper, Sec. 3.2 to 3.4).

    python recipes/grpo.py --config recipes/configs/demo/emo_r3.yaml
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/grpo.py \
        --config recipes/configs/qwen2_5_vl_3b/emoset_emo_r3.yaml

A YAML is one complete run; flags override it (`--learning_rate 1e-6`). `--plan` prints what would run and stops. The
same command again resumes a stopped run from its last checkpoint. Without --config: the demo on a machine without a
GPU, EmoSet on a machine with one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import ModelConfig, get_peft_config

from emor3_trl.config import EmoR3Config
from emor3_trl.config_checks import check_adapter
from emor3_trl.config_switches import check_weighed_labels
from emor3_trl.context_length import check_context
from emor3_trl.data import load_split
from emor3_trl.demo import default_config
from emor3_trl.demo.model import ensure_demo
from emor3_trl.engines.adapters import save_merged
from emor3_trl.evaluation.validation import Validation
from emor3_trl.groups.batching import count_batches
from emor3_trl.launch import check_reference, weights_sharded, world_size
from emor3_trl.named_rewards import check_reward_columns
from emor3_trl.run.arguments import GRPOArguments
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.help import GRPO_OPTIONS
from emor3_trl.run.plan import describe_run
from emor3_trl.run.progress import show_compactly
from emor3_trl.run.recipe import run_recipe, user_errors
from emor3_trl.run.start import count_samples, load_validation, open_run
from emor3_trl.run.stopping import train_until_stopped
from emor3_trl.run.tracking import finish_tracking, start_tracking
from emor3_trl.truth_checks import check_truth_columns

if TYPE_CHECKING:
    from emor3_trl import EmoR3Trainer


def main() -> None:
    """Parse, load, build, train, save."""
    classes = (GRPOArguments, ModelConfig, EmoR3Config)
    parsed = parse_arguments(classes, default_config(__file__), about=__doc__, groups=GRPO_OPTIONS)
    run, model, args = parsed.arguments
    with user_errors():
        if run.plan:
            print(describe_run(parsed.values, count_samples(run), run.processes or world_size()))
            return
        check_reference(args.beta, model.use_peft)
        ensure_demo(run.data, model.model_name_or_path)
        opened = open_run(parsed)
        if opened is None:
            return
        count_batches(parsed.values, len(opened.train), world_size())  # refuses fewer rows than one rollout takes
        evaluation = load_split(run.data, run.eval_split, run.prompt_style) if run.eval_split else None
        check_reward_columns(args, {"training": opened.train, "evaluation": evaluation})
        check_truth_columns(args, {"training": opened.train, "evaluation": evaluation})
        held_out = load_validation(run, args)
        check_context({"train": opened.train, **held_out}, opened.processor, args, model.model_name_or_path)
        check_weighed_labels({"train": opened.train}, opened.processor, args)
        adapter = get_peft_config(model)
        check_adapter(adapter, args, model.model_name_or_path)

    from emor3_trl import EmoR3Trainer  # with vLLM, which takes seconds to import
    from emor3_trl.engines.server_checks import check_server
    from emor3_trl.groups.checks import choose_engine_options

    with user_errors():
        options = choose_engine_options(model.model_name_or_path, args, opened.train)
        check_server(args, model.model_name_or_path, options)
        opened.folder.begin()
        start_tracking(opened.folder, args)
    trainer = EmoR3Trainer(
        model=model.model_name_or_path,
        args=args,
        train_dataset=opened.train,
        eval_dataset=evaluation,
        processing_class=opened.processor,
        peft_config=adapter,
    )
    show_compactly(trainer)
    validation = None
    if held_out:
        validation = Validation(trainer, held_out, run.validation_steps, run.prompt_style, run.validation_patience)
        trainer.add_callback(validation)
    result = train_until_stopped(trainer, opened.folder.checkpoint)
    save_model(trainer, opened.processor, model.use_peft)
    rewards = reward_quarters(trainer.state.log_history)
    metrics = {**result.metrics, **rewards, **(validation.find_best() if validation else {})}
    trainer.create_model_card(opened.folder.path.name, metrics=metrics)
    opened.folder.write_metrics(metrics)  # the run is finished
    finish_tracking()
    if rewards and trainer.accelerator.is_main_process:
        first, last = rewards.values()
        print(
            f"Saved in {args.output_dir}. Mean reward: {first:.2f} in the first quarter of the steps, "
            f"{last:.2f} in the last"
        )


def save_model(trainer: "EmoR3Trainer", processor: Any, lora: bool) -> None:
    """Save the model (of LoRA also merged, ready for vLLM, where one process has it whole), processor and log."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model()
    trainer.save_state()
    if trainer.accelerator.is_main_process:
        processor.save_pretrained(folder)
        if lora and weights_sharded():
            print(f"{folder} holds the adapter alone: recipes/evaluate.py merges it")
        elif lora:
            save_merged(trainer.accelerator.unwrap_model(trainer.model), folder / "merged")
            processor.save_pretrained(folder / "merged")


def reward_quarters(log_history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean overall reward of the first and of the last quarter of the logged steps."""
    rewards = [entry["reward"] for entry in log_history if "reward" in entry]
    if not rewards:
        return {}
    quarter = max(1, len(rewards) // 4)
    first, last = rewards[:quarter], rewards[-quarter:]
    return {"reward/first_quarter": sum(first) / len(first), "reward/last_quarter": sum(last) / len(last)}


if __name__ == "__main__":
    run_recipe(main)
