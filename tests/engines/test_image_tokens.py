"""Image tokens: what a question attends to, by hand; what is removed has no influence, and the rest is as it was."""

import pytest
import torch
from tiny_llava import build_tiny_llava, sharpen
from tiny_model import build_tiny_model, tiny_pictures
from transformers import AutoModelForImageTextToText, AutoProcessor

from emor3_trl.emotions import EMOSET_8
from emor3_trl.engines.engine import Question
from emor3_trl.engines.image_tokens import complete_without, look, remove_image_tokens
from emor3_trl.engines.transformers import TransformersEngine, padded_inputs
from emor3_trl.prompts import prompt_text, render

BUILDERS = {"llava": build_tiny_llava, "qwen2_5_vl": lambda folder: build_tiny_model(folder, tied=False)}
TEXTS = [prompt_text("direct", EMOSET_8.labels), "Which emotion?", "Look at the picture. Which emotion?"]
GREEDY = {"n": 1, "temperature": 0.0, "max_tokens": 6, "seed": 0}


@pytest.fixture(scope="module", params=BUILDERS)
def engine(request, tmp_path_factory):
    """A transformers engine on a random model of a family, sharpened so that answers differ from picture to picture."""
    folder = BUILDERS[request.param](tmp_path_factory.mktemp(request.param))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    if request.param == "qwen2_5_vl":
        sharpen(model, model.model.visual.merger.mlp[2])
    return TransformersEngine(model, AutoProcessor.from_pretrained(folder, padding_side="left"))


@pytest.fixture
def inputs(engine):
    """Three prompts of other lengths, padded on the left."""
    prompts = [render(engine.processor, text) for text in TEXTS]
    return padded_inputs(engine.processor, prompts, [()] * 3, tiny_pictures(3))


def is_image(engine, inputs):
    return inputs["input_ids"] == engine.model.config.image_token_id


@torch.no_grad()
def first_scores(engine, prompts):
    """Return the logits of the first new token, from `generate` itself."""
    output = engine.model.generate(
        **prompts, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return output.logits[0]


def test_a_prompt_that_loses_nothing_has_the_plain_prompts_logits(engine, inputs):
    shortened = remove_image_tokens(engine.model, inputs, [(), (), ()])
    assert torch.equal(first_scores(engine, shortened), first_scores(engine, inputs))
    images = tiny_pictures(3)
    plain = engine.generate(TEXTS, images, **GREEDY)
    assert complete_without(engine, TEXTS, images, [(), (), ()], **GREEDY) == plain
    assert len({row[0].text for row in plain}) == 3, "the pictures are too easy to confuse"


def test_removed_tokens_cannot_influence_the_logits(engine, inputs, monkeypatch):
    removed = [(0, 2), (1,), (3,)]
    places = is_image(engine, inputs)
    features = engine.model.get_image_features
    perturbed = {"places": removed}

    def perturb(**images):
        outputs = features(**images)
        parts = [part.clone() for part in outputs.pooler_output]
        for part, row_places in zip(parts, perturbed["places"], strict=True):
            part[list(row_places)] += 100.0
        outputs.pooler_output = parts
        return outputs

    without = first_scores(engine, remove_image_tokens(engine.model, inputs, removed))
    monkeypatch.setattr(engine.model, "get_image_features", perturb)
    assert torch.equal(first_scores(engine, remove_image_tokens(engine.model, inputs, removed)), without)
    perturbed["places"] = [(1,), (0,), (0,)]  # one that stays does: the test can fail
    kept_changed = first_scores(engine, remove_image_tokens(engine.model, inputs, removed))
    assert all((kept_changed - without).abs().amax(dim=1) > 1e-3)
    assert places.sum() > 5


def test_kept_tokens_stay_at_their_positions(engine, inputs):
    """Each token that is left has the embedding and the position it had; new tokens count on from the last."""
    removed = [(0, 2), (), (3, 1)]
    whole = remove_image_tokens(engine.model, inputs, [(), (), ()])
    shortened = remove_image_tokens(engine.model, inputs, removed)
    places = is_image(engine, inputs)
    for row, row_removed in enumerate(removed):
        kept = inputs["attention_mask"][row].bool()
        image = places[row].nonzero()[:, 0].tolist()
        kept[[image[place] for place in row_removed]] = False
        mask = shortened["attention_mask"][row].bool()
        assert int(mask.sum()) == int(inputs["attention_mask"][row].sum()) - len(row_removed)
        assert not mask[: -int(mask.sum())].any()  # padding stands on the left
        assert torch.equal(shortened["inputs_embeds"][row, mask], whole["inputs_embeds"][row, kept])
        assert torch.equal(shortened["position_ids"][..., row, mask], whole["position_ids"][..., row, kept])
        assert not shortened["inputs_embeds"][row, ~mask].any()
    # M-RoPE: the model's own index of the whole prompt
    if "image_grid_thw" in inputs:
        names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
        index, _ = engine.model.model.get_rope_index(**{name: inputs[name] for name in names})
        assert torch.equal(whole["position_ids"][1:], index)


def test_a_batch_with_removed_tokens_is_answered_as_each_row_alone(engine):
    """Decoding goes on at the right positions: later tokens agree with forwards that have no cache."""
    images, removed = tiny_pictures(3), [(0, 2), (1,), (3,)]
    together = complete_without(engine, TEXTS, images, removed, **GREEDY)
    for text, image, places, (completion,) in zip(TEXTS, images, removed, together, strict=True):
        beginning = padded_inputs(engine.processor, [render(engine.processor, text)], [()], [image])
        shortened = remove_image_tokens(engine.model, beginning, [places])
        ids: list[int] = []
        for _ in range(GREEDY["max_tokens"]):
            with torch.no_grad():
                logits = engine.model(**shortened).logits[0, -1]
            logits[engine.model.config.image_token_id] = -torch.inf
            if (video := getattr(engine.model.config, "video_token_id", None)) is not None:
                logits[video] = -torch.inf
            ids.append(int(logits.argmax()))
            embedding = engine.model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            positions = shortened["position_ids"]
            shortened = {
                "inputs_embeds": torch.cat([shortened["inputs_embeds"], embedding], dim=1),
                "attention_mask": torch.cat([shortened["attention_mask"], torch.ones(1, 1, dtype=torch.long)], dim=1),
                "position_ids": torch.cat([positions, positions[..., -1:] + 1], dim=-1),
            }
            if ids[-1] == engine.model.generation_config.eos_token_id:
                break
        assert engine.processor.tokenizer.decode(ids, skip_special_tokens=True) == completion.text


def test_attention_is_the_mean_over_question_heads_and_layers(engine):
    """Against the weights that the model itself returns for each row alone, added up by hand."""
    questions = [
        Question(text, ("Positive", "Negative"), image) for text, image in zip(TEXTS, tiny_pictures(3), strict=True)
    ]
    usual = engine.model.config.get_text_config()._attn_implementation
    looks = look(engine, questions)
    assert engine.model.config.get_text_config()._attn_implementation == usual
    tokenizer = engine.processor.tokenizer
    for question, seen in zip(questions, looks, strict=True):
        before, after = render(engine.processor, "\u2400").split("\u2400")
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (question.text, after)]
        row = padded_inputs(engine.processor, [before], [ids[0] + ids[1]], [question.image])
        first = row["input_ids"].shape[1] - len(ids[0]) - len(ids[1])
        engine.model.set_attn_implementation("eager")
        with torch.no_grad():
            output = engine.model(**row, output_attentions=True)
        engine.model.set_attn_implementation(usual)
        places = is_image(engine, row)[0].nonzero()[:, 0].tolist()
        expected = []
        for place in places:
            paid = [
                float(layer[0, head, query, place])
                for layer in output.attentions
                for head in range(layer.shape[1])
                for query in range(first, first + len(ids[0]))
            ]
            expected.append(sum(paid) / len(paid))
        assert seen.attention == pytest.approx(expected, abs=1e-6)
        assert sorted(range(len(places)), key=seen.attention.__getitem__) == sorted(
            range(len(places)), key=expected.__getitem__
        )
        logits = [
            float(output.logits[0, -1, tokenizer(word)["input_ids"][-len(tokenizer.tokenize(word))]])
            for word in question.choices
        ]
        assert seen.choice_logits == pytest.approx(logits, abs=1e-4)


def test_choices_that_begin_alike_are_refused(engine):
    question = Question("Which?", ("Positive", "Positively"), tiny_pictures(1)[0])
    with pytest.raises(ValueError, match="begins Positive and Positively with the same token"):
        look(engine, [question])
