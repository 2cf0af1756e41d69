"""A run that was stopped goes on as if it had never been: what Trainer's checkpoints leave out, or load wrongly.

`ResumableTrainer` is mixed into a trainer of TRL. What differs from `transformers.Trainer`, by the hook:

- `_load_from_checkpoint`, `_load_best_model` load weights strictly, under the names that they are saved with.
  Transformers 5 renames every weight of a Qwen2.5-VL on saving, and its trainer ignores names that do not fit;
- `_save_rng_state`, `_load_rng_state` keep the rest of the run's state: a rollout that is used for several updates,
  the place in it, sums of the log, and a reference model that follows the policy;
- `_generate` starts with empty caches in vLLM;
- `_save_checkpoint` writes the checksums of what it saved; `_prepare_for_training` compares them, writes them where a
  kill came before, looks at the files and reads tensors and values alone (`torch_files`);
- `_save` leaves tokens and passwords out of `training_args.bin`, and the last call's padding out of `tokenizer.json`;
- `_run_epoch` draws the order of an epoch as if the epochs before it had been drawn, and does not train a finished run.

Optimizer, schedule and random state are Trainer's. DeepSpeed and FSDP have files of their own, with the model's names.
"""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, Trainer
from trl.trainer.utils import RepeatSampler

from emor3_trl.checkpoints import check_adapter_fits
from emor3_trl.checksums import CHECKSUMS, write_checksums
from emor3_trl.damage import check_launch, find_damage
from emor3_trl.masking import mask_secrets
from emor3_trl.upkeep.torch_files import check_no_code, only_tensors

# What a trainer knows in the middle of a run and `Trainer` does not save
STATE = (
    "_step",
    "_buffered_inputs",
    "_total_train_tokens",
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
)
REFERENCE = "reference"  # folder of a reference model that follows the policy


# Several processes on a CPU have the device "cpu:0", where Trainer loads the optimizer, and which torch does not know
torch.serialization.register_package(5, lambda _: None, lambda storage, place: storage if place == "cpu:0" else None)


class ResumableTrainer(Trainer):
    """Makes a resumed run end as an uninterrupted one, bit by bit; mix it in before a trainer of TRL."""

    args: Any
    _resumes_from: str | None = None  # until its state is restored
    _train_sampler: Any = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self._load_whole_adapters(self.model if model is None else model, resume_from_checkpoint)
        else:
            load_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            check_no_code(self.state.best_model_checkpoint)
            with only_tensors():
                super()._load_best_model()
            self._load_whole_adapters(self.model, self.state.best_model_checkpoint)
        else:
            load_weights(self.model, self.state.best_model_checkpoint)
        self._last_loaded_step = -1  # vLLM still holds the last weights

    def _load_whole_adapters(self, model: Any, checkpoint: str) -> None:
        """Load adapters again where Accelerate's file lacks some: under FSDP2, unless it is sharded itself."""
        plugin = self.accelerator.state.fsdp_plugin if self.accelerator.is_fsdp2 else None
        if plugin is not None and plugin.state_dict_type.name == "FULL_STATE_DICT" and is_peft_model(model):
            load_sharded_adapters(model, checkpoint)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> tuple:
        if resume_from_checkpoint is not None:
            damage = find_damage(resume_from_checkpoint)
            if damage:
                raise ValueError(f"The checkpoint '{resume_from_checkpoint}' is damaged: {damage}. Go on from another.")
            check_launch(resume_from_checkpoint, self.args.world_size)
            check_no_code(resume_from_checkpoint)
        self._resumes_from = resume_from_checkpoint
        with only_tensors():  # of DeepSpeed and FSDP as well
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is not None and self.args.should_save:
            self._finish_checkpoint(Path(resume_from_checkpoint))
        return prepared

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        self._train_sampler = super()._get_train_sampler(*args, **kwargs)
        return self._train_sampler

    def _run_epoch(self, **arguments: Any) -> None:
        # It was stopped after its last step, or a callback has ended it as it began
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self._resumes_from is not None and isinstance(self._train_sampler, RepeatSampler):
            for _ in range(arguments["epoch"]):
                next(iter(self._train_sampler), None)  # draws the order of an epoch
        super()._run_epoch(**arguments)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self._resumes_from is not None:  # there was nothing left to train
            self._load_rng_state(self._resumes_from)
        return super()._finalize_training(*args, **kwargs)

    def _generate(self, prompts: list) -> tuple:
        reset = getattr(getattr(self, "vllm_generation", None), "reset_caches", None)
        if reset is not None and self.state.global_step == self._last_loaded_step:
            reset()  # an evaluation with these weights has filled the caches, which a resumed run would find empty
        return super()._generate(prompts)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self._collect_state(), self._state_file(output_dir))
        if getattr(self.args, "sync_ref_model", False) and self.args.should_save and not self._shards_weights():
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(Path(output_dir) / REFERENCE)
        # The main process writes trainer_state.json next, which says that the checkpoint is complete
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        self._resumes_from = None
        state = torch.load(self._state_file(checkpoint), map_location=self.args.device, weights_only=True)
        for mode, metrics in state.pop("_metrics").items():
            self._metrics[mode].update(metrics)
        for name, value in state.items():
            setattr(self, name, value)
        if getattr(self.args, "sync_ref_model", False):
            load_weights(self.accelerator.unwrap_model(self.ref_model), Path(checkpoint) / REFERENCE)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir() and find_damage(folder):
            shutil.rmtree(folder)  # what a killed run left would stand among the new files
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            write_checksums(folder)

    def _finish_checkpoint(self, folder: Path) -> None:
        """Write the checksums of this run's checkpoint, which has loaded, where it was killed before it did."""
        if folder.parent == Path(self.args.output_dir) and not (folder / CHECKSUMS).is_file():
            write_checksums(folder)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        arguments, self.args = self.args, copy.copy(self.args)  # training_args.bin holds all of them
        vars(self.args).update(mask_secrets(vars(arguments)))
        _forget_last_call(self.processing_class)
        try:
            super()._save(*args, **kwargs)
        finally:
            self.args = arguments

    def _collect_state(self) -> dict[str, Any]:
        """Return what the run is in the middle of; a rollout only where it is used again."""
        state = {name: getattr(self, name) for name in STATE if hasattr(self, name)}
        if "_buffered_inputs" in state and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            state["_buffered_inputs"] = None
        state["_metrics"] = {
            mode: {name: [float(value) for value in values] for name, values in metrics.items()}
            for mode, metrics in self._metrics.items()
        }
        return state

    def _state_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"run_state_{self.args.process_index}.pt"

    def _shards_weights(self) -> bool:
        zero = self.accelerator.state.deepspeed_plugin if self.is_deepspeed_enabled else None
        return self.is_fsdp_enabled or (zero is not None and zero.zero_stage == 3)


def _list_adapters(model: PeftModel, checkpoint: str | Path) -> list[tuple[str, Path]]:
    """Return each adapter's name, with the folder of a checkpoint that PEFT saves it in."""
    return [(name, Path(checkpoint, *([] if name == "default" else [name]))) for name in model.peft_config]


def load_sharded_adapters(model: PeftModel, checkpoint: str | Path) -> None:
    """Give the adapters of a model that FSDP2 shards the weights of a checkpoint, in place, on all processes together.

    Accelerate's own file of an adapter leaves out those of Qwen2.5-VL's merger, and loads without a word.

    Raises:
        ValueError: if a weight is missing, or one is left over.
    """
    for name, folder in _list_adapters(model, checkpoint):
        loaded = load_file(folder / "adapter_model.safetensors")
        weights = get_peft_model_state_dict(
            model, dict(model.named_parameters()), adapter_name=name, save_embedding_layers=False
        )
        if differing := sorted(loaded.keys() ^ weights.keys()):
            raise ValueError(
                f"The adapter in '{folder}' does not fit the model: {len(differing)} weights, such as {differing[0]}, "
                "are in one of the two alone. Was it written by another model? Remove it to go on from an earlier one."
            )
        with torch.no_grad():
            for key, weight in weights.items():
                value = loaded[key].to(weight.device, weight.dtype)
                if isinstance(weight, DTensor):
                    value = distribute_tensor(value, weight.device_mesh, weight.placements)
                weight.copy_(value)


def load_weights(model: PreTrainedModel | PeftModel, checkpoint: str | Path) -> None:
    """Give a model the weights of a checkpoint, in place; of LoRA, those of its adapters.

    Args:
        model: a whole model, not a sharded one.
        checkpoint: a folder that `save_pretrained` of such a model wrote.

    Raises:
        ValueError: if a weight is missing, or one is left over.
    """
    if is_peft_model(model):
        for name, folder in _list_adapters(model, checkpoint):
            check_adapter_fits(model.load_adapter(str(folder), name, is_trainable=True), folder)
        return
    dtypes = {weight.dtype for weight in model.state_dict().values()}
    # float32 holds all that a checkpoint of mixed types holds
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    loaded, report = type(model).from_pretrained(
        checkpoint, config=copy.deepcopy(model.config), dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    faults: Mapping[str, Any] = {kind: names for kind, names in report.items() if names}
    if faults:
        kind, names = next(iter(faults.items()))
        raise ValueError(
            f"The checkpoint '{checkpoint}' does not fit the model: {len(names)} {kind.replace('_', ' ')}, such as "
            f"{sorted(map(str, names))[0]}. Was it written by another model? Remove it to go on from an earlier one."
        )
    model.load_state_dict(loaded.state_dict())


def _forget_last_call(processing_class: Any) -> None:
    """Take the padding and truncation of its last call from a fast tokenizer, which would save them with itself."""
    backend = getattr(getattr(processing_class, "tokenizer", processing_class), "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
