"""Held-out images are asked about while training: with the weights of that step, and without an effect on training."""

from types import SimpleNamespace

import pytest
import torch
from training import SAVING, launch_two, logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText

from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation import validation
from emor3_trl.evaluation.prediction import PredictionOptions, predict_emotions
from emor3_trl.evaluation.validation import Validation

ACCURACY = "eval/held_out/accuracy"


def weights_after_training(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def validated_steps(trainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if ACCURACY in entry]


@pytest.mark.parametrize("use_vllm", [pytest.param(True, id="vllm"), pytest.param(False, id="transformers")])
def test_each_validation_is_of_the_weights_of_its_step_and_training_goes_on_as_without(
    tiny_model_dir, tmp_path, monkeypatch, use_vllm
):
    options = {"use_vllm": use_vllm, "max_steps": 3, "lambda1": 0.0, **SAVING}
    plain = weights_after_training(tiny_trainer(tiny_model_dir, tmp_path / "plain", **options))
    written = []

    def record(*args, **kwargs):
        predictions = predict_emotions(*args, **kwargs)
        written.append([prediction.completion for prediction in predictions])
        return predictions

    monkeypatch.setattr(validation, "predict_emotions", record)
    trainer = tiny_trainer(tiny_model_dir, tmp_path / "validated", **options)
    trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset()}, steps=2))
    validated = weights_after_training(trainer)
    assert all(torch.equal(plain[name], weight) for name, weight in validated.items())
    assert validated_steps(trainer) == [0, 2, 3]  # before the first, every second, and after the last
    assert len(logged(trainer, "loss")) == 3
    assert logged(trainer, "time/validation") > [0, 0, 0]
    for step, folder in ((0, tiny_model_dir), (1, "checkpoint-2"), (2, "checkpoint-3")):
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "validated" / folder, dtype="float32")
        engine = TransformersEngine(model, trainer.processing_class)
        options_again = PredictionOptions(max_tokens=trainer.args.max_completion_length, reflect=False)
        again = predict_emotions(engine, tiny_dataset(), "held_out", options_again, progress=False)
        assert [prediction.completion for prediction in again] == written[step]


def script_accuracies(monkeypatch, accuracies: list[float]) -> None:
    """Let each validation of ten rows have the next accuracy."""
    remaining = iter(accuracies)

    def predict(*_, **__):
        right = round(10 * next(remaining))
        return [SimpleNamespace(correct=number < right, well_formed=True) for number in range(10)]

    monkeypatch.setattr(validation, "predict_emotions", predict)


@pytest.mark.parametrize(
    ("accuracies", "patience", "best", "last"),
    [
        pytest.param([0.1, 0.5, 0.9, 0.7, 0.6], None, 2, 4, id="the best is kept beside the last"),
        pytest.param([0.1, 0.5, 0.5, 0.4, 0.5], None, 1, 4, id="of equal ones, the first"),
        pytest.param([0.9, 0.5, 0.5, 0.4, 0.5], None, 0, 4, id="the model before training needs no checkpoint"),
        pytest.param([0.1, 0.8, 0.5, 0.4], 2, 1, 3, id="patience ends"),
        pytest.param([0.1, 0.8, 0.5, 0.9, 0.9], 2, 3, 4, id="patience begins anew"),
    ],
)
def test_the_best_checkpoint_is_saved_and_kept(
    tiny_model_dir, tmp_path, monkeypatch, capsys, accuracies, patience, best, last
):
    script_accuracies(monkeypatch, accuracies)
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, use_vllm=False, lambda1=0.0, save_strategy="steps", save_steps=4, save_total_limit=1
    )
    trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset()}, steps=1, patience=patience))
    trainer.train()
    assert trainer.state.global_step == last
    assert logged(trainer, ACCURACY) == accuracies
    assert ("Stopped: 2 validations without a higher accuracy" in capsys.readouterr().out) == (last < 4)
    assert (tmp_path / f"checkpoint-{best}").is_dir() == (best > 0)
    assert trainer.state.best_metric == (accuracies[best] if best else None)
    assert trainer.state.best_model_checkpoint == (str(tmp_path / f"checkpoint-{best}") if best else None)


def test_a_resumed_run_knows_the_best_of_before(tiny_model_dir, tmp_path, monkeypatch):
    accuracies = [0.1, 0.8, 0.5, 0.4, 0.6]
    outcomes = []
    for folder, parts in (("whole", [(4, accuracies)]), ("resumed", [(2, accuracies[:3]), (4, accuracies[3:])])):
        for number, (steps, scripted) in enumerate(parts):
            script_accuracies(monkeypatch, scripted)
            trainer = tiny_trainer(
                tiny_model_dir, tmp_path / folder, use_vllm=False, lambda1=0.0, max_steps=steps, **SAVING
            )
            trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset()}, steps=1))
            trainer.train(resume_from_checkpoint=number > 0)
        state = trainer.state
        outcomes.append(
            (logged(trainer, ACCURACY), validated_steps(trainer), state.best_metric, state.best_global_step)
        )
    assert outcomes[0] == outcomes[1] == (accuracies, [0, 1, 2, 3, 4], 0.8, 1)


def test_a_resumed_run_whose_patience_has_ended_trains_no_further(tiny_model_dir, tmp_path, monkeypatch):
    options = {"use_vllm": False, "lambda1": 0.0, "max_steps": 6, **SAVING}
    for resumed, scripted in ((False, [0.1, 0.8, 0.5, 0.4]), (True, [0.9] * 3)):
        script_accuracies(monkeypatch, scripted)
        trainer = tiny_trainer(tiny_model_dir, tmp_path, **options)
        trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset()}, steps=1, patience=2))
        trainer.train(resume_from_checkpoint=resumed)
        assert logged(trainer, ACCURACY) == [0.1, 0.8, 0.5, 0.4]
        assert trainer.state.global_step == 3


def test_a_finished_run_that_was_never_validated_is_validated_once(tiny_model_dir, tmp_path, monkeypatch, capsys):
    options = {"use_vllm": False, "lambda1": 0.0, "max_steps": 1, **SAVING}
    tiny_trainer(tiny_model_dir, tmp_path, **options).train()
    script_accuracies(monkeypatch, [0.4])
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **options)
    trainer.add_callback(Validation(trainer, {"held_out": tiny_dataset()}, steps=1))
    trainer.train(resume_from_checkpoint=True)
    assert validated_steps(trainer) == [1]
    assert f"Best on validation: 0.400, {tmp_path / 'checkpoint-1'}" in capsys.readouterr().out


def test_a_configuration_that_chooses_its_own_best_model_is_refused(tiny_model_dir, tmp_path):
    chooses = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False, per_device_eval_batch_size=4, **chooses)
    with pytest.raises(ValueError, match="metric_for_best_model is 'loss', and validation chooses"):
        Validation(trainer, {"held_out": tiny_dataset()}, steps=1)


@pytest.mark.slow
def test_two_processes_share_the_rows(tiny_model_dir, tmp_path):
    options = {"use_vllm": True, "per_device_train_batch_size": 4, "reward_funcs": None, "lambda1": 0.0}
    history = launch_two(tiny_model_dir, tmp_path, {**options, "validated": True})
    assert [entry[ACCURACY] for entry in history["log"] if ACCURACY in entry] == [0.5, 0.5, 0.5]
