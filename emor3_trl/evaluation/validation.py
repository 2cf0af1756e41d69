"""Validation while training: greedy accuracy and format on held-out images, on the engine that writes the rollouts.

A reward curve rises on the images that are trained on. This one is of images that are not (paper, Fig. 3).
"""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from emor3_trl.evaluation.prediction import Prediction, PredictionOptions, predict_emotions
from emor3_trl.evaluation.tracking import log_confusions
from emor3_trl.launch import weights_sharded
from emor3_trl.prompts import PromptStyle


class Validation(TrainerCallback):
    """Asks for the emotions of held-out images before the first step, every few steps, and after the last.

    It logs `eval/<name>/accuracy`, `eval/<name>/format_rate` and `time/validation`. The model whose accuracy on the
    first data set is the highest, the earliest of several, is saved at once, and its checkpoint is kept
    (`state.best_model_checkpoint`). Nothing is drawn, so training goes on as it would without.

    Args:
        trainer: an `EmoR3Trainer`; add the callback to it.
        datasets: rows by name, see `emor3_trl.data.load_split`.
        steps: optimizer steps between two validations.
        prompt_style: how the rows are asked, as in training.
        patience: stop after so many validations without a higher accuracy; None goes on.

    Raises:
        ValueError: if the weights are sharded and there is no vLLM, or the configuration chooses a best model itself.
    """

    def __init__(
        self,
        trainer: Any,
        datasets: Mapping[str, Dataset],
        steps: int,
        prompt_style: PromptStyle = "set",
        patience: int | None = None,
    ) -> None:
        check_validation(trainer.args)
        self.trainer, self.datasets, self.steps, self.patience = trainer, dict(datasets), steps, patience
        args = trainer.args
        batch_size = 64 if args.use_vllm else args.per_device_eval_batch_size  # vLLM makes batches of its own
        self.options = PredictionOptions(
            prompt_style, max_tokens=args.max_completion_length, batch_size=batch_size, reflect=False
        )
        self._accuracy = f"eval/{next(iter(self.datasets))}/accuracy"

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate the model that training starts from, unless a resumed run has; one whose patience ended stops."""
        if not any(self._accuracy in entry for entry in state.log_history):
            self._validate()
            self._note_best(args, state)
        self._stop_without_patience(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate when it is time; save the best model so far, and stop where patience has ended."""
        if state.global_step % self.steps and state.global_step < state.max_steps:
            return
        self._validate()
        control.should_save |= self._note_best(args, state)
        self._stop_without_patience(state, control)

    def _note_best(self, args: Any, state: Any) -> bool:
        """Return whether the model that was just validated is the best so far, and let the run's state say so."""
        best, best_step = self.find_best().values()
        if best_step == state.global_step > 0:
            state.best_metric, state.best_global_step = best, best_step
            state.best_model_checkpoint = str(Path(args.output_dir, f"checkpoint-{best_step}"))
        return best_step == state.global_step

    def _stop_without_patience(self, state: Any, control: Any) -> None:
        best, best_step = self.find_best().values()
        since = sum(entry["step"] > best_step for entry in state.log_history if self._accuracy in entry)
        if self.patience is not None and since >= self.patience and state.global_step < state.max_steps:
            control.should_training_stop = True
            self._say(f"Stopped: {since} validations without a higher accuracy than {best:.3f} at step {best_step}")

    def find_best(self) -> dict[str, float]:
        """Return `best/accuracy`, the highest one on the first data set so far, and `best/step`, the first with it."""
        history = self.trainer.state.log_history
        validations = [(entry[self._accuracy], -entry["step"]) for entry in history if self._accuracy in entry]
        accuracy, step = max(validations)
        return {"best/accuracy": accuracy, "best/step": -step}

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Name the best model."""
        accuracy, step = self.find_best().values()
        place = state.best_model_checkpoint if step else "the model before training"
        self._say(f"Best on validation: {accuracy:.3f}, {place}")

    def _validate(self) -> None:
        """Predict, log and print. Each process takes a part of the rows; those that share an engine take the same."""
        start = perf_counter()
        metrics, answered = {}, {}
        args = self.trainer.args
        ranks = args.vllm_tensor_parallel_size if args.use_vllm and args.vllm_mode == "colocate" else 1
        part, leads = divmod(self.trainer.accelerator.process_index, ranks)
        parts = self.trainer.accelerator.num_processes // ranks
        with self.trainer.open_engine() as engine:
            for name, dataset in self.datasets.items():
                rows = dataset.select(range(part, len(dataset), parts))
                predictions = predict_emotions(engine, rows, name, self.options, progress=False)
                gathered: list[Prediction] = gather_object(predictions if leads == 0 else [])
                answered[name] = gathered
                for metric, values in (
                    ("accuracy", [prediction.correct for prediction in gathered]),
                    ("format_rate", [prediction.well_formed for prediction in gathered]),
                ):
                    metrics[f"eval/{name}/{metric}"] = sum(values) / len(values)
        control = self.trainer.control
        logs_training = control.should_log
        # Not GRPOTrainer's, which would log the unfinished training metrics with it
        Trainer.log(self.trainer, {**metrics, "time/validation": perf_counter() - start})
        control.should_log = logs_training  # what was logged here is not the step's own entry
        if self.trainer.accelerator.is_main_process:
            log_confusions(self.trainer.reports_to, answered, self.trainer.state.global_step)
        listed = [f"{key.removeprefix('eval/').replace('/', ' ')} {value:.3f}" for key, value in metrics.items()]
        self._say(f"Step {self.trainer.state.global_step}: {', '.join(listed)}")

    def _say(self, line: str) -> None:
        if self.trainer.accelerator.is_main_process:
            tqdm.write(line)


def check_validation(args: Any) -> None:
    """Check, before a model loads, that a run can be validated.

    Raises:
        ValueError: if the weights are sharded and there is no vLLM, or the configuration chooses a best model itself.
    """
    if weights_sharded() and not args.use_vllm:
        raise ValueError(
            "Validation needs vLLM where this launch shards the weights (ZeRO-3 or FSDP): set use_vllm: true, or "
            "launch with recipes/accelerate/ddp.yaml or zero2.yaml."
        )
    if args.metric_for_best_model is not None:
        raise ValueError(
            f"metric_for_best_model is '{args.metric_for_best_model}', and validation chooses the best model by "
            "accuracy. Leave metric_for_best_model unset, or validation_splits."
        )
