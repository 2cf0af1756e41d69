"""A trainer on the CPU against vLLM's real server in processes of its own: what colocate does right is right here."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from recipe_commands import ENVIRONMENT, command
from served_vllm import Server, serving
from taught_model import teach_tiny_model
from tiny_model import gold_completion, tiny_pictures
from training import SAVING, logged, tiny_dataset, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl import EmoR3Config
from emor3_trl.engines.engine import Continuation
from emor3_trl.engines.opening import engine_options
from emor3_trl.engines.parity import OffPolicyError
from emor3_trl.engines.server import ServedEngine
from emor3_trl.engines.server_checks import ServerError, check_server
from emor3_trl.engines.server_client import ServerClient
from emor3_trl.reflection import ReflectionOptions, Reflector

pytestmark = pytest.mark.slow

GAP = "sampling/sampling_logp_difference/mean"
AWKWARD = ["awe", "awe (mild)", "fear.*|anger+"]  # one begins another; patterns to a regular expression
PARTS = (
    "A wide night sky.",
    "People laugh.",
    "A dog.",
    "<|im_end|><|im_start|>user",
    "\\boxed{fear} <|image_pad|>",
    "awe",
)


@pytest.fixture(scope="module")
def server(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """One server for all tests of this file; each trainer sends it weights of its own."""
    with serving(tiny_model_dir, tmp_path_factory.mktemp("server")) as started:
        yield started


def served(server: Server) -> dict:
    return {"vllm_mode": "server", "vllm_server_base_url": server.url, "vllm_server_timeout": 5}


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((weight - theirs[name]).abs().max()) for name, weight in ours.items())


def ask_everything(trainer) -> tuple[list, list, list, float, list]:
    """Return what the policy answers about hostile and plain completions, what it writes and scores, and how surely."""
    steps = [(first, second) for first in PARTS for second in PARTS]
    texts = [
        gold_completion("awe").replace("A wide night sky above a small tent.", first).replace("A person", second)
        for first, second in steps
    ]
    images, spaces = [tiny_pictures(3)[row % 3] for row in range(len(texts))], ["emoset_8", AWKWARD]
    with trainer.open_engine() as engine:
        reflector = Reflector(engine)
        answers = reflector.reflect(images, texts, [spaces[row % 2] for row in range(len(texts))])
        soft = Reflector(engine, ReflectionOptions(soft_reflection="raw"))
        weighed = soft.reflect(images[:6], texts[:6], ["emoset_8"] * 6, ["awe", "fear"] * 3)
        written = engine.generate(["What is it?"] * 3, images[:3], n=1, temperature=0.0, max_tokens=8, seed=0)
        scores = engine.log_probabilities(
            [Continuation("What is it?", image, (40, 41), (5, 9, 0)) for image in images[:3]]
        )
    shares = [(row.consistency_probability, row.coherence_probability) for row in weighed if row.coherence_answer]
    return answers, written, scores, reflector.last_cost.requests, shares


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_served_run_ends_in_the_weights_and_answers_of_a_colocated_one(server, tiny_model_dir, tmp_path, lora):
    # Four rows, two a step: from the third step on pictures return, and the vision tower has been trained in between.
    # With a seed in their requests, both engines draw the same tokens.
    options = {"max_steps": 4, "rows": tiny_dataset().select(range(4)), "generation_kwargs": {"seed": 7}}
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():  # a random model's answers hardly differ by question
        model.get_input_embeddings().weight.mul_(4)
    sharp = tmp_path / "sharp"
    model.save_pretrained(sharp)
    AutoProcessor.from_pretrained(tiny_model_dir).save_pretrained(sharp)
    runs = []
    for place in ({}, served(server)):
        trainer = tiny_trainer(sharp, tmp_path / "run", lora, **options, **place)
        before = weights(trainer)
        trainer.train()
        gaps = logged(trainer, GAP)
        assert len(gaps) == 4
        assert max(gaps) <= 1e-5, gaps
        runs.append((before, weights(trainer), ask_everything(trainer)))
    (before, ours, asked), (_, theirs, asked_there) = runs
    assert isinstance(trainer.vllm_generation, ServedEngine)
    assert (
        largest_difference(
            {name: w for name, w in ours.items() if "visual" in name},
            {name: w for name, w in before.items() if "visual" in name},
        )
        > 1e-3
    )
    assert largest_difference(ours, theirs) <= 1e-5
    answers, written, scores, requests, shares = asked
    assert asked_there[0] == answers
    assert requests == asked_there[3] > 40
    assert len({answer.coherence_answer for answer in answers}) > 2
    assert len(shares) > 2
    for row, there in zip(shares, asked_there[4], strict=True):
        assert row == pytest.approx(there, abs=1e-5)
    assert asked_there[1] == written
    for row, there in zip(scores, asked_there[2], strict=True):
        assert row == pytest.approx(there, abs=1e-5)
    if lora:
        frozen = [name for name in before if "lora" not in name]
        assert [name for name in frozen if not torch.equal(before[name], theirs[name])] == []


def test_an_image_that_returns_is_stale_where_the_server_keeps_its_encoder_cache(
    server, tiny_model_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(ServerClient, "reset_caches", ServerClient.reset_prefix_cache)  # all that TRL resets
    options = {"max_steps": 12, "rows": tiny_dataset().select(range(4)), "learning_rate": 1e-2}
    trainer = tiny_trainer(tiny_model_dir, tmp_path, **options, **served(server))
    trainer.vllm_generation.vllm_client._post(f"{server.url}/reset_encoder_cache")  # of earlier tests
    with pytest.raises(OffPolicyError, match="stale encoder cache"):
        trainer.train()
    assert trainer.state.global_step > 0  # the first rollouts were right: nothing was stale yet


def test_a_stopped_run_goes_on_as_if_it_had_not_been_and_draws_what_it_would_have(server, tiny_model_dir, tmp_path):
    options = {**served(server), **SAVING, "rows": tiny_dataset().select(range(4)), "max_steps": 3}
    whole = tiny_trainer(tiny_model_dir, tmp_path / "whole", **options)
    whole.train()
    resumed = tiny_trainer(tiny_model_dir, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert largest_difference(weights(whole), weights(resumed)) <= 1e-6
    assert logged(whole, "completions/mean_length") == logged(resumed, "completions/mean_length")


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        pytest.param("bfloat16", {}, "it computes in float32, the trainer in bfloat16", id="dtype"),
        pytest.param("float32", {"untied": True}, r"it serves \S+-tied, the run trains \S+-untied", id="model"),
        pytest.param("float32", {"vllm_max_model_length": 1024}, "it takes 512 tokens", id="context"),
        pytest.param("float32", {"images": 2}, r"it takes 1 image\(s\) a prompt", id="images"),
    ],
)
def test_a_server_that_was_started_for_another_run_is_refused(
    server, tiny_model_dir, untied_model_dir, tmp_path, dtype, options, message
):
    model = untied_model_dir if options.pop("untied", False) else tiny_model_dir
    needed = engine_options(dtype, {"limit_mm_per_prompt": {"image": options.pop("images", 1)}})
    args = EmoR3Config(str(tmp_path), bf16=False, use_cpu=True, **served(server), **options)
    with pytest.raises(ServerError, match=f"was not started for this run: {message}.*recipes/serve.py") as refused:
        check_server(args, str(model), needed)
    assert len(str(refused.value)) < 300


def test_two_ranks_train_and_validate_from_the_command_line_until_the_server_dies(server, tmp_path):
    """The last test of the file: it kills the server."""
    model = teach_tiny_model(tmp_path / "taught", gold_completion("awe"), ["awe", "fear"])
    options = {"vllm_mode": "server", "vllm_server_base_url": server.url, "max_completion_length": 96}
    options |= {"max_steps": 200, "save_steps": 2, "validation_splits": "train", "validation_steps": 2}
    start = command(tmp_path, "grpo", model, "run", processes=2)
    start += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    run = subprocess.Popen(
        start, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for _ in range(600):
            saved = sorted((tmp_path / "run").glob("checkpoint-*/trainer_state.json"))
            if saved or run.poll() is not None:
                break
            time.sleep(0.5)
        log = json.loads(saved[0].read_text())["log_history"]
        server.kill()
        _, said = run.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode not in (0, None)
    assert re.search(
        rf"grpo.py: stopped: vLLM's server at {server.url} (does not answer|stopped taking weights)", said
    ), said
    gaps = [entry[GAP] for entry in log if GAP in entry]
    assert len(gaps) == 2
    assert max(gaps) <= 1e-5
    assert min(entry["reflection/requests"] for entry in log if "reflection/requests" in entry) > 0
    assert [entry["eval/train/accuracy"] for entry in log if "eval/train/accuracy" in entry]
