"""Writes a run's card where TRL would write its own: into the run's folder, and into each checkpoint.

`CardTrainer` is mixed into a trainer of TRL. What differs from TRL, by the hook:

- `create_model_card` writes the run's card; TRL's knows neither the base model nor what the model is asked;
- `_save_checkpoint` writes it into the checkpoint, too, and `_prepare_for_training` where a run was killed in between.
"""

import importlib.metadata
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from emor3_trl.emotions import LabelSpace
from emor3_trl.files import read_mapping
from emor3_trl.model_card.card import format_model_card, write_model_card
from emor3_trl.model_card.facts import RunFacts, find_weights, gather_facts, read_manifest

logger = logging.getLogger(__name__)
PAPER_REWARDS = {f"{name}_reward" for name in ("accuracy", "consistency", "coherence", "format")}  # the paper's
_CURE = "Start the run again."


class CardTrainer(Trainer):
    """Writes the run's own model card; mix it in before a trainer of TRL.

    Attributes:
        labels: the label space that is trained on; None leaves the card to TRL.
        question: what the model is asked about a picture.
    """

    labels: tuple[str, ...] | None = None
    question: str = ""

    def create_model_card(
        self, model_name: str | None = None, *args: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write the card into the run's folder.

        Args:
            model_name: what the model is called.
            args: those of TRL, which are for its own card.
            metrics: of the end of the training; None while it has not ended.
            kwargs: as `args`.
        """
        if self.labels is None:
            super().create_model_card(model_name, *args, **kwargs)
        else:
            self._write_card(Path(self.args.output_dir), model_name, metrics)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self._write_checkpoint_card(
            Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        )

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> tuple:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint and Path(resume_from_checkpoint).parent == Path(self.args.output_dir):
            self._write_checkpoint_card(Path(resume_from_checkpoint))
        return prepared

    def learn_question(self, dataset: Any) -> None:
        """Take label space and question from the first training row, where it has them."""
        if isinstance(dataset, Dataset) and len(dataset) and {"label_space", "prompt"} <= set(dataset.column_names):
            row = dataset.select_columns(["label_space", "prompt"])[0]
            prompt = row["prompt"]
            # Rewards of a user's own may read neither, so whatever stands there is no reason not to train
            with suppress(ValueError, TypeError, LookupError, AttributeError):
                text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
                parts = [text] if isinstance(text, str) else [part.get("text") or "" for part in text]
                labels = LabelSpace.of(row["label_space"]).labels
                self.labels, self.question = labels, "".join(parts)

    def _write_checkpoint_card(self, folder: Path) -> None:
        if self.labels is not None and folder.is_dir():
            step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
            self._write_card(folder, f"{Path(self.args.output_dir).name}, step {step}")

    def _write_card(self, folder: Path, name: str | None, metrics: Mapping[str, Any] | None = None) -> None:
        if self.is_world_process_zero():
            try:
                facts = self._gather_facts(metrics or {})
                weights = find_weights(folder, facts.config)
                write_model_card(format_model_card(facts, name or folder.name, weights), folder)
            except Exception as error:  # TRL writes the card before the checkpoint, which must not be lost
                logger.warning("There is no new model card in '%s': %r", folder, error)

    def _gather_facts(self, metrics: Mapping[str, Any]) -> RunFacts:
        """Return what the run's files say; of a run that Python code started, what its arguments say."""
        run = Path(self.args.output_dir)
        read = {
            name: read_mapping(run / name, _CURE) if (run / name).is_file() else {}
            for name in ("config.yaml", "environment.json")
        }
        config, environment = read["config.yaml"], read["environment.json"]
        if not config:
            base = getattr(self.model.config, "_name_or_path", None)
            names = set(getattr(self, "reward_func_names", PAPER_REWARDS))
            config = self.args.to_dict() | {"rewards": None if names == PAPER_REWARDS else sorted(names)}
            config |= {"model_name_or_path": base, "use_peft": is_peft_model(self.model)}
        if not environment:
            environment = {"versions": {name: importlib.metadata.version(name) for name in ("emor3_trl", "trl")}}
        data = read_manifest(config["data"]) if config.get("data") else {}
        return RunFacts(config, environment, self.labels or (), self.question, data, metrics)


def renew_model_card(run: Path, evaluation: Path) -> None:
    """Write the metrics of an evaluation into the card of the run whose model it is of; a person's own card stays."""
    if (run / "README.md").is_file() and (run / "config.yaml").is_file() and (run / "metrics.json").is_file():
        try:
            facts = gather_facts(run, evaluation)
            write_model_card(format_model_card(facts, run.name, find_weights(run, facts.config)), run)
        except Exception as error:  # the evaluation itself is finished
            logger.warning("The model card in '%s' stays as it is: %r", run, error)
