"""What a step asks for: each picture once, one request per prompt, one push of weights. Odd completions are data."""

import logging

import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from tiny_model import gold_completion, tiny_pictures
from training import fixed_completions, logged, tiny_trainer
from transformers import AutoModelForImageTextToText
from trl import GRPOTrainer

from emor3_trl import EmoR3Trainer
from emor3_trl.engines.vllm import VLLMEngine
from emor3_trl.groups import packing
from emor3_trl.groups.images import ImageCounts, leave_encoded, share_images, split_pixels_by_row


def test_each_distinct_picture_is_decoded_and_processed_once_a_step(tiny_model_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=2, parity_warn=1e9, parity_stop=1e9)
    written = trainer.processing_class.tokenizer(gold_completion("awe"))["input_ids"]
    generate = trainer._generate_single_turn

    def well_formed(prompt_ids, *args, **kwargs):
        generate(prompt_ids, *args, **kwargs)
        return [written] * len(prompt_ids), [[0.0] * len(written)] * len(prompt_ids)

    monkeypatch.setattr(trainer, "_generate_single_turn", well_formed)
    worked_on: dict[bool, int] = {True: 0, False: 0}
    own = trainer.processing_class.image_processor
    stock = type(own)._preprocess

    def counted(self, images, *args, **kwargs):
        worked_on[self is own] += len(images)  # vLLM, in this process, has another of the same class
        return stock(self, images, *args, **kwargs)

    monkeypatch.setattr(type(own), "_preprocess", counted)
    trainer.train()
    assert min(logged(trainer, "reflection/requests")) > 2  # both pictures were looked at again
    # 8 completions of 2 prompts: tokenising and the forwards ask for 10 pictures, two are worked on
    assert logged(trainer, "images/processed") == [2, 2]
    assert logged(trainer, "images/decoded") == [2, 2]
    assert min(logged(trainer, "images/requested")) >= 8
    assert worked_on == {True: 2 * 2, False: 2 * 2}
    patches = [part["pixel_values"] for part in trainer._buffered_inputs]
    assert [len(rows) for rows in patches] == [8]
    assert len({row.data_ptr() for rows in patches for row in rows}) == 2  # siblings look at the same memory


@pytest.mark.parametrize("repeated", [True, False], ids=["as-the-processor-repeats-them", "once"])
def test_each_row_has_the_patches_of_its_own_picture(repeated):
    first, second = Image.new("RGB", (28, 28)), Image.new("RGB", (56, 28))
    images = [second, None, first, second]
    patches = {id(first): torch.full((4, 6), 1.0), id(second): torch.full((8, 6), 2.0)}
    given = [second, first, second] if repeated else [second, first]
    grids = torch.tensor([[1, 2, 4], [1, 2, 2], [1, 2, 4]])
    images_by_row = [[] if image is None else [image] for image in images]
    rows = split_pixels_by_row(torch.cat([patches[id(image)] for image in given]), grids, images_by_row)
    assert [row.shape[0] for row in rows] == [8, 0, 4, 8]
    for row, image in zip(rows, images, strict=True):
        assert image is None or torch.equal(row, patches[id(image)])
    assert (rows[0].data_ptr() == rows[3].data_ptr()) is not repeated


@pytest.mark.parametrize(("mode", "decoded"), [(None, 1), ("L", 0)])
def test_a_picture_is_shared_in_the_mode_that_its_column_asks_for(mode, decoded):
    picture = tiny_pictures(1)[0]
    dataset = Dataset.from_list([{"image": picture}] * 4, features=Features({"image": ImageFeature(mode=mode)}))
    counts = ImageCounts()
    shared = share_images(list(leave_encoded(dataset)), counts)
    assert {row["image"].mode for row in shared} == {mode or "RGB"}
    assert len({id(row["image"]) for row in shared}) == 1
    assert counts.decoded == decoded  # the data set decodes what has a mode


def test_vllm_gets_one_request_per_prompt_and_the_weights_once_per_step(tiny_model_dir, tmp_path, monkeypatch):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=3, reward_funcs=None)
    engine, log = trainer.vllm_generation, []
    generate, sync, choose = engine.llm.generate, engine.sync_weights, VLLMEngine.choose

    def counted(prompts, sampling_params, **options):
        if not isinstance(sampling_params, list):
            log.append(("rollout", len(prompts), sampling_params.n))
        return generate(prompts, sampling_params=sampling_params, **options)

    monkeypatch.setattr(engine.llm, "generate", counted)
    monkeypatch.setattr(engine, "sync_weights", lambda: log.append(("sync",)) or sync())
    monkeypatch.setattr(VLLMEngine, "choose", lambda self, q: log.append(("reflection",)) or choose(self, q))
    llm = engine.llm
    trainer.train()
    rollouts = [entry for entry in log if entry[0] == "rollout"]
    assert rollouts == [("rollout", 2, 4)] * 3  # 8 completions of 2 prompts
    assert [entry[0] for entry in log if entry[0] != "reflection"] == ["sync", "rollout"] * 3
    assert trainer.vllm_generation.llm is llm


def test_caches_are_empty_of_the_last_weights_after_a_push(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=2)
    trainer.train()
    core = trainer.vllm_generation.llm.llm_engine.engine_core.engine_core
    pictures = core.scheduler.encoder_cache_manager
    assert pictures.cached  # the last rollout's
    assert len(core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block) > 0
    trainer.vllm_generation.sync_weights()
    assert not pictures.cached
    assert len(core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block) == 0
    assert core.scheduler.kv_cache_manager.usage == 0


def step_with(trainer: EmoR3Trainer, monkeypatch, make) -> EmoR3Trainer:
    """Train one step on completions that `make` returns by row."""

    def generate(self, prompt_ids, *args, **kwargs):
        return [make(row) for row in range(len(prompt_ids))], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    trainer.train()
    return trainer


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "ordinary"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(lambda row: [] if row % 3 == 0 else [20 + row, 543], {}, id="some-empty"),
        pytest.param(lambda row: [], {}, id="all-empty"),
        pytest.param(lambda row: [20 + row] * 16, {"mask_truncated_completions": True}, id="all-truncated-and-masked"),
        pytest.param(lambda row: [20 + row] * (row + 1), {}, id="all-truncated"),
    ],
)
def test_odd_completions_are_a_correct_step(tiny_model_dir, tmp_path, monkeypatch, make, options, shared):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, use_vllm=False, max_steps=1, shared_prefix=shared, beta=0.04, **options
    )
    step_with(trainer, monkeypatch, make)
    assert trainer.state.global_step == 1
    assert torch.isfinite(torch.tensor(logged(trainer, "loss") + logged(trainer, "grad_norm"))).all()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    if options:
        assert logged(trainer, "grad_norm") == [0.0]


def test_vllm_takes_rows_with_and_without_a_picture_in_one_rollout(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, pictures="most", per_device_train_batch_size=32, max_steps=1, parity_stop=1e-4
    )
    trainer.train()
    assert logged(trainer, "images/processed") == [6]  # of eight rows
    assert max(logged(trainer, "sampling/sampling_logp_difference/mean")) <= 1e-5


def test_a_picture_of_one_merged_token_is_a_correct_step(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, max_steps=2, side=28)
    trainer.train()
    assert max(logged(trainer, "sampling/sampling_logp_difference/mean")) <= 1e-5


def test_a_group_of_one_is_refused(tiny_model_dir, tmp_path):
    with pytest.raises(ValueError, match=r"at least 2 generations|2 or more"):
        tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False, num_generations=1)


def test_a_model_that_cannot_share_says_why_once_and_trains(tiny_model_dir, tmp_path, monkeypatch, caplog):
    stock = AutoModelForImageTextToText.from_pretrained

    def eager(*args, **kwargs):
        return stock(*args, **{**kwargs, "attn_implementation": "eager"})

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", eager)
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    with caplog.at_level(logging.WARNING, logger="emor3_trl"):
        trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False, max_steps=2)
        trainer.train()
    said = [record.message for record in caplog.records if "not shared" in record.message]
    assert len(said) == 1
    assert "attn_implementation 'sdpa', and this model has 'eager'" in said[0]
    assert trainer.state.global_step == 2
    assert not logged(trainer, "shared_prefix/token_share")


def test_siblings_stay_next_to_each_other_in_every_micro_batch(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(EmoR3Trainer, "_generate_single_turn", fixed_completions)
    trainer = tiny_trainer(
        tiny_model_dir, tmp_path, use_vllm=False, max_steps=2, per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
    )  # fmt: skip
    groups: list[int] = []
    stock = packing.pack
    monkeypatch.setattr(
        packing, "pack", lambda *a, **k: (row := stock(*a, **k), groups.append(len(row.layout.groups)))[0]
    )
    trainer.train()
    assert groups
    assert set(groups) == {1}  # micro-batches of four, groups of four: one prompt each


def test_an_image_that_a_tool_returned_stands_where_it_was_returned(tiny_model_dir, tmp_path):
    trainer = tiny_trainer(tiny_model_dir, tmp_path, use_vllm=False)
    assert trainer.shares_prefix
    trainer.tools = [tiny_pictures]
    processor = trainer.processing_class
    image_token = processor.image_token
    first, second, third = tiny_pictures()
    rows = [
        (f"look: {image_token} and answer", f" I see {image_token} now", [first, second]),
        (f"look: {image_token} and answer", f" or {image_token} then", [first, third]),
        (f"look: {image_token} and answer", " nothing at all is there", [first]),
    ]
    texts = [prompt + completion for prompt, completion, _ in rows]
    whole = processor(text=texts, images=[images for *_, images in rows], return_tensors="pt", padding=True)
    prompt_length = processor(text=rows[0][0], images=[first], return_tensors="pt")["input_ids"].shape[1]
    lengths = whole["attention_mask"].sum(dim=1)
    # As TRL lays them out: prompts end at one place, completions are padded on the right
    longest = int(lengths.max()) - prompt_length
    ids = torch.full((3, prompt_length + longest), processor.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths.tolist()):
        ids[row, :length], mask[row, :length] = whole["input_ids"][row, -length:], 1
    fields = {"pixel_values": whole["pixel_values"], "image_grid_thw": whole["image_grid_thw"]}
    fields["mm_token_type_ids"] = (ids == processor.image_token_id).long()
    with torch.no_grad():
        scored, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, longest, num_images=[2, 2, 1], **fields
        )
        logits = trainer.model(input_ids=ids, attention_mask=mask, **fields).logits
    expected = logits[:, prompt_length - 1 : -1].log_softmax(-1).gather(-1, ids[:, prompt_length:, None])[..., 0]
    kept = mask[:, prompt_length:].bool()
    torch.testing.assert_close(scored[kept], expected[kept], rtol=0, atol=1e-5)
