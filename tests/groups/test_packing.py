"""A group scored in one row gives the numbers of the ordinary forward: values, entropies and gradients."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.attention.bias import causal_lower_right
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from trl.trainer.utils import add_fused_lm_head

from emor3_trl.engines.policy import suppress_image_tokens
from emor3_trl.groups import attention, batching, packing

VOCABULARY, IMAGE, VISION_START, VISION_END, PAD = 120, 110, 111, 112, 0
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": 1,
}
VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4}
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 113,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
CONFIGS = {
    "llama": TEXT,
    "qwen2": TEXT,
    "qwen3": TEXT | {"head_dim": 8},
    "qwen2_vl": {
        "text_config": TEXT | {"rope_parameters": MROPE},
        "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
        **TOKENS,
    },
    "qwen2_5_vl": {
        "text_config": TEXT | {"rope_parameters": MROPE},
        "vision_config": VISION | {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 16},
        **TOKENS,
    },
    "qwen3_vl": {
        "text_config": TEXT
        | {"num_hidden_layers": 3, "head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": VISION
        | {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
        **TOKENS,
    },
}
FAMILIES = sorted(CONFIGS)
PATCH = 3 * 2 * 4 * 4  # colours, frames, sides


def build(family: str, **options):
    """Return a random model of a family, with TRL's fused head."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CONFIGS[family])
    auto = AutoModelForImageTextToText if family.endswith("_vl") else AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation=options.pop("attn_implementation", "sdpa"))
    with torch.no_grad():  # larger weights than a fresh model's, so that attention matters
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    return model


def micro_batch(groups, family: str, seed: int = 0) -> dict:
    """Build a micro-batch from groups of (text tokens, image sides, completion lengths, masked completions)."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(5, 100, (count,), generator=generator)  # noqa: E731
    prompts, completions, pixels, grids, counts, hidden = [], [], [], [], [], []
    for text, images, lengths, masked in groups:
        prompt, own_pixels, own_grids = draw(text), [], []
        for side in images if family.endswith("_vl") else ():
            place = torch.tensor([VISION_START, *[IMAGE] * side**2, VISION_END])
            prompt = torch.cat([place, prompt])
            own_grids.append([1, 2 * side, 2 * side])
            own_pixels.append(torch.randn(4 * side**2, PATCH, generator=generator))
        for number, length in enumerate(lengths):
            prompts.append(prompt)
            completions.append(draw(length))
            hidden.append(number in masked)
            pixels += own_pixels
            grids += own_grids
            counts.append(len(own_grids))
    width, longest = max(map(len, prompts)), max(1, *map(len, completions))
    ids, mask = torch.full((len(prompts), width + longest), PAD), torch.zeros(len(prompts), width + longest).long()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, width - len(prompt) : width] = prompt
        ids[row, width : width + len(completion)] = completion
        mask[row, width - len(prompt) : width] = 1
        mask[row, width : width + len(completion)] = int(not hidden[row])
    batch = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": longest}
    if pixels:
        batch |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids), "num_images": counts}
    return batch


def ordinary(model, batch):
    """Score a micro-batch as TRL does: every row on its own, padded."""
    keep, ids, mask = batch["logits_to_keep"], batch["input_ids"], batch["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-keep] = -100
    images = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    if images:
        images["mm_token_type_ids"] = (ids == IMAGE).int()
    output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **images)
    return output.log_probs[:, -keep:], output.entropy[:, -keep:]


def shared(model, batch, batch_size=None):
    """Score a micro-batch in packed rows."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = packing.pack_rows(
        **batch,
        rope_index=getattr(base.model, "get_rope_index", None),
        batch_size=batch_size,
        image_token_id=IMAGE,
    )
    log_probs, entropies = [], []
    for row in rows:
        output = model(**row.inputs(), fused_lm_head=True)
        row.layout.check_used(base.config.get_text_config().num_hidden_layers)
        log_probs.append(row.unpack(output.log_probs))
        entropies.append(row.unpack(output.entropy))
    return torch.cat(log_probs), torch.cat(entropies)


def gradients(model, score, batch, weights) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss that depends on every log-probability and entropy."""
    model.zero_grad()
    log_probs, entropies = score(model, batch)
    ((log_probs + 0.1 * entropies) * weights[:, : log_probs.shape[1]]).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, batch, tolerance=2e-5, **options) -> None:
    """Compare values and gradients of both ways."""
    attention.install_attention(model)
    expected, found = ordinary(model, batch), shared(model, batch, **options)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
    weights = torch.randn(len(batch["input_ids"]), 64, generator=torch.Generator().manual_seed(1))
    wanted = gradients(model, ordinary, batch, weights)
    given_ = gradients(model, lambda m, b: shared(m, b, **options), batch, weights)
    assert wanted.keys() == given_.keys()
    largest = max(gradient.norm().item() for gradient in wanted.values())
    for name, gradient in wanted.items():
        error = (given_[name] - gradient).norm().item()
        assert error <= tolerance * max(gradient.norm().item(), 1e-2 * largest) + 1e-9, (name, error)


RAGGED = [(7, (2,), (5, 9, 1), ()), (4, (3, 1), (6, 6), ()), (9, (), (3, 8), ())]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gives_the_same_numbers_on_ragged_groups_with_none_one_and_two_images(family):
    assert_same(build(family), micro_batch(RAGGED, family))


CASES = {
    "one group of equal lengths": [(6, (2,), (5, 5, 5, 5), ())],
    "a group of one": [(6, (2,), (5,), ())],
    "text only": [(6, (), (5, 3), ()), (8, (), (2, 2), ())],
    "an image of one merged token": [(6, (1,), (5, 3), ())],
    "a prompt of one token": [(1, (), (5, 3), ())],
    "a completion of one token": [(6, (2,), (1, 1), ())],
    "an empty completion": [(6, (2,), (0, 4), ())],
    "a truncated completion is masked": [(6, (2,), (5, 3, 4), (1,))],
    "all completions are masked": [(6, (2,), (5, 3), (0, 1)), (5, (1,), (4,), (0,))],
    "the same words about other pictures": [(6, (2,), (5, 3), ()), (6, (2,), (4, 2), ())],
}


@pytest.mark.parametrize("groups", CASES.values(), ids=CASES)
def test_edge_cases_give_the_same_numbers(groups):
    assert_same(build("qwen2_5_vl"), micro_batch(groups, "qwen2_5_vl"))


def test_siblings_that_part_over_chunks_share_what_each_chunk_has():
    assert_same(build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl"), batch_size=2)


def test_siblings_are_found_wherever_they_are_in_a_micro_batch():
    batch = micro_batch([(6, (), (5, 3), ()), (8, (), (2, 4), ())], "qwen2_5_vl")
    order = torch.tensor([0, 2, 1, 3])
    batch |= {name: batch[name][order] for name in ("input_ids", "attention_mask")}
    row = packing.pack(**batch, rope_index=lambda *_: None, image_token_id=IMAGE)
    assert [span.lengths for span in row.layout.groups] == [(5, 3), (2, 4)]
    assert_same(build("qwen2_5_vl"), batch)


def test_a_prompt_and_its_image_stand_once():
    batch = micro_batch([(6, (2,), (5,) * 8, ())], "qwen2_5_vl")
    row = packing.pack(**batch, rope_index=build("qwen2_5_vl").model.get_rope_index, image_token_id=IMAGE)
    prompt = 6 + 2**2 + 2
    assert row.input_ids.shape == (1, prompt - 1 + 8 * 5)
    assert row.ordinary_tokens == 8 * (prompt + 5)
    assert len(row.images["pixel_values"]) == 16
    assert row.images["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_the_same_words_about_other_pictures_are_two_groups():
    batch = micro_batch(CASES["the same words about other pictures"], "qwen2_5_vl")
    batch["input_ids"][2:] = batch["input_ids"][:2]  # now only the pixels differ
    row = packing.pack(**batch, rope_index=build("qwen2_5_vl").model.get_rope_index, image_token_id=IMAGE)
    assert len(row.layout.groups) == 2
    assert_same(build("qwen2_5_vl"), batch)


def with_lora(model):
    attention.install_attention(model)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def with_checkpointing(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def with_frozen_vision(model):
    model.model.visual.requires_grad_(False)
    return model


@pytest.mark.parametrize("change", [with_lora, with_checkpointing, with_frozen_vision])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_ways_to_train_give_the_same_numbers(family, change):
    assert_same(change(build(family)), micro_batch(RAGGED, family))


def test_bf16_autocast_differs_no_more_than_bf16_rounding():
    model, batch = build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl")
    attention.install_attention(model)
    exact, _ = ordinary(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock, _ = ordinary(model, batch)
        packed, _ = shared(model, batch)
    rounding = (stock - exact).abs().mean().item()
    assert rounding > 0
    assert (packed - exact).abs().mean().item() <= 1.5 * rounding


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16-autocast"])
def test_the_bias_that_a_gpu_gets_is_the_mask_that_a_cpu_gets(monkeypatch, autocast):
    model, batch = build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl")
    attention.install_attention(model)

    def score():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return shared(model, batch)

    expected, span = score(), packing._span
    monkeypatch.setattr(
        packing,
        "_span",
        lambda *args: dataclasses.replace(made := span(*args), mask=causal_lower_right(*made.mask.shape)),
    )
    for one, other in zip(expected, score(), strict=True):
        torch.testing.assert_close(other, one)


@pytest.fixture
def one_process(tmp_path):
    """A mesh of this process, for what shards a model."""
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    if own:
        dist.destroy_process_group()


def test_a_model_that_fsdp2_shards_gives_the_same_numbers(one_process):
    model = build("qwen2_5_vl")
    suppress_image_tokens(model, SimpleNamespace(image_token_id=IMAGE))
    # a type for parameters makes it cast, and so rebuild, what each layer is called with
    policy = MixedPrecisionPolicy(param_dtype=torch.float32)
    for layer in (*model.model.language_model.layers, *model.model.visual.blocks, model):
        fully_shard(layer, mesh=one_process, mp_policy=policy)
    assert_same(model, micro_batch(RAGGED, "qwen2_5_vl"))


groups_strategy = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.lists(st.integers(1, 3), max_size=2).map(tuple),
        st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple),
        st.sets(st.integers(0, 3), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    groups=groups_strategy,
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 99),
    batch_size=st.none() | st.integers(1, 9),
)
def test_any_micro_batch_in_chunks_of_any_size_gives_the_same_log_probs(groups, family, seed, batch_size):
    model, batch = build(family), micro_batch(groups, family, seed)
    attention.install_attention(model)
    with torch.no_grad():
        for one, other in zip(ordinary(model, batch), shared(model, batch, batch_size), strict=True):
            torch.testing.assert_close(other, one, rtol=3e-5, atol=3e-5)


def test_ordinary_calls_of_an_installed_model_are_unchanged():
    model, batch = build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl")
    with torch.no_grad():
        before = ordinary(model, batch)
        attention.install_attention(model)
        after = ordinary(model, batch)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_saved_model_does_not_remember_the_attention(tmp_path):
    model = build("qwen2_5_vl")
    attention.install_attention(model)
    model.save_pretrained(tmp_path)
    assert attention.ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"attn_implementation": "eager"}, "needs attn_implementation 'sdpa'", id="eager"),
        pytest.param({"attention_dropout": 0.1}, "attention dropout", id="dropout"),
        pytest.param({"layer_types": ["sliding_attention", "full_attention"]}, "full attention", id="sliding"),
        pytest.param({"model_type": "gemma"}, "this model is of type 'gemma'", id="untested family"),
    ],
)
def test_a_model_that_cannot_take_the_mask_is_told_why(change, words):
    model = build("qwen2", **{k: v for k, v in change.items() if k == "attn_implementation"})
    for name, value in change.items():
        if name != "attn_implementation":
            setattr(model.config, name, value)
    assert words in (attention.explain_refusal(model) or "")


@pytest.mark.parametrize(("rate", "words"), [(0.0, None), (0.05, "Dropout of 0.05 is drawn once")])
def test_dropout_that_siblings_share_is_said(rate, words):
    model = get_peft_model(build("qwen2"), LoraConfig(r=4, target_modules="all-linear", lora_dropout=rate))
    text = attention.explain_dropout(model)
    assert (text is None) if words is None else (words in text)


def test_a_model_whose_last_layer_takes_visual_features_is_told_why():
    model = build("qwen3_vl")
    model.config.text_config.num_hidden_layers = 2
    assert "enter its last layer" in (attention.explain_refusal(model) or "")


def test_the_last_layer_computes_the_completions_alone():
    model, batch = build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl")
    attention.install_attention(model)
    rows = []
    for layer in model.model.language_model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, states: rows.append(states[0].shape[1]))
    with torch.no_grad():
        shared(model, batch)
    tokens = batch["attention_mask"][:, -batch["logits_to_keep"] :].sum().item()
    assert rows[0] > rows[1] == tokens


def test_every_tested_family_is_supported():
    assert set(attention.SUPPORTED) == set(FAMILIES)
    assert all(attention.explain_refusal(build(family)) is None for family in FAMILIES)


def test_a_replaced_attention_is_an_error_and_never_a_silent_difference():
    model, batch = build("qwen2_5_vl"), micro_batch(RAGGED, "qwen2_5_vl")
    attention.install_attention(model)
    model.config.get_text_config()._attn_implementation = "sdpa"
    with (
        pytest.raises(RuntimeError, match=r"0 of the model's 2 attention layers.*shared_prefix: false"),
        torch.no_grad(),
    ):
        shared(model, batch)


def test_a_prompt_that_ends_with_a_picture_is_refused():
    batch = micro_batch([(1, (2,), (3,), ())], "qwen2_5_vl")
    batch["input_ids"][:, -4] = IMAGE
    with pytest.raises(ValueError, match="ends with a picture"):
        packing.pack(**batch, rope_index=None, image_token_id=IMAGE)


@given(rows=st.integers(1, 60), first=st.integers(0, 30), group=st.integers(1, 9))
def test_permuted_groups_stay_whole(rows, first, group):
    order = batching.permute_groups(batching.number_groups(rows, first, group)).tolist()
    assert sorted(order) == list(range(rows))
    seen = [(first + row) // group for row in order]
    changes = sum(one != other for one, other in itertools.pairwise(seen))
    assert changes == len(set(seen)) - 1
    for one, other in itertools.pairwise(order):
        if (first + one) // group == (first + other) // group:
            assert other == one + 1


@pytest.mark.parametrize(
    ("group", "per_device", "accumulation", "words"),
    [
        (8, 8, 1, None),
        (8, 16, 2, None),
        (8, 4, 4, "--per_device_train_batch_size 8 --gradient_accumulation_steps 2 takes steps"),
        (8, 1, 64, "--per_device_train_batch_size 8 --gradient_accumulation_steps 8"),
        (8, 6, 4, "Use a multiple of 8, or a divisor"),
        (8, 4, 1, "Use a multiple of 8 for whole groups"),
    ],
)
def test_batch_arithmetic_that_cuts_groups_is_explained(group, per_device, accumulation, words):
    text = batching.explain_split(group, per_device, accumulation)
    assert (text is None) if words is None else (words in text)
