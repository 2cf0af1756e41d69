"""W&B gets completions with pictures and steps, rewards and the cost of reflection, offline and without asking."""

import json

import wandb
from test_trainer import write_gold
from training import tiny_trainer


def test_an_offline_run_holds_completions_pictures_rewards_and_reflection(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trainer = tiny_trainer(
        tiny_model_dir,
        tmp_path / "run",
        max_steps=1,
        report_to=["wandb"],
        log_completions=True,
        log_multimodal=True,
        num_completions_to_print=0,
        reward_funcs=None,
        use_vllm=False,
    )
    write_gold(trainer, monkeypatch)
    trainer.train()
    wandb.teardown()  # waits until everything is written
    (run_file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = run_file.read_bytes()  # keys stand in it as plain text
    for key in (b"train/reflection/requests", b"train/rewards/coherence_reward/mean", b"train/reward"):
        assert key in logged
    (table_file, *_) = (run_file.parent / "files" / "media").rglob("completions*.table.json")
    table = json.loads(table_file.read_text())
    assert {"trigger", "feeling", "conclusion", "answer", "consistency_answer", "image"} <= set(table["columns"])
    assert len(table["data"]) == 8
    # Pictures of a table travel with its artifact, which waits to be uploaded.
    staged = [file for file in tmp_path.rglob("artifacts/staging/*") if file.read_bytes()[:4] == b"\x89PNG"]
    assert len(staged) >= 2
