"""The English demo's judge is taught what the consistency question asks, though a row holds many of them."""

import random

import pytest
import torch
from PIL import Image
from tiny_model import TEXT_SIZES, VISION_SIZES, tiny_tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from emor3_trl.demo.english import keep_stage
from emor3_trl.demo.english_tasks import EnglishTasks
from emor3_trl.demo.judging import (
    QUESTION,
    SEEN_FROM,
    SHORT_QUESTION,
    Claim,
    ClaimedImage,
    LookHeads,
    compute_judging_losses,
    compute_verdict_loss,
    measure_judge,
)
from emor3_trl.demo.sentences import list_requests
from emor3_trl.demo.untrained import build_processor, build_untrained_model
from emor3_trl.demo.worlds import LOOKS
from emor3_trl.demo.writing import Sentences
from emor3_trl.groups.attention import install_attention
from emor3_trl.prompts import CONSISTENCY_QUESTION, render


@pytest.fixture(scope="module")
def told() -> Sentences:
    """Sentences of other lengths for each look with each detail."""
    written = Sentences()
    for request in list_requests():
        if request.kind == "triggers":
            look, detail = request.key.split(" | ")
            written.triggers[request.key] = [
                f"It shows a {look} with {detail}.",
                f"Here we see {detail} and, above all, a {look}.",
            ]
    return written


@pytest.fixture(scope="module")
def tiny_processor() -> Qwen2_5_VLProcessor:
    return build_processor(tiny_tokenizer(), min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def model(tiny_processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    """A random model whose last layer is not the one in the middle."""
    torch.manual_seed(1)
    built = build_untrained_model(tiny_processor, {**TEXT_SIZES, "num_hidden_layers": 3}, VISION_SIZES)
    install_attention(built)
    return built


@pytest.fixture(scope="module")
def claimed(tiny_processor, pictures, told) -> list[ClaimedImage]:
    return EnglishTasks(tiny_processor, pictures, random.Random(0), told).claims(3, 4)


def test_half_of_the_claims_hold_and_every_other_pair_differs_in_the_look_alone(tiny_processor, pictures, told):
    drawn = {id(image): drawing for image, drawing in pictures}
    for claimed in EnglishTasks(tiny_processor, pictures, random.Random(0), told).claims(len(pictures), 8):
        drawing = drawn[id(claimed.image)]
        assert claimed.look == drawing.look
        assert [claim.holds for claim in claimed.claims] == [True, False] * 4
        for number, claim in enumerate(claimed.claims):
            (key,) = (key for key, texts in told.triggers.items() if claim.text in texts)
            look, detail = key.split(" | ")
            assert claim.look == look
            assert (look == drawing.look) is claim.holds
            if claim.holds or number % 4 == 1:
                assert detail in drawing.details.values()
        pairs = zip(claimed.claims[::4], claimed.claims[1::4], strict=True)
        assert all(_find_detail(told, true) == _find_detail(told, false) for true, false in pairs)


def _find_detail(told: Sentences, claim: Claim) -> str:
    return next(key.split(" | ")[1] for key, texts in told.triggers.items() if claim.text in texts)


def read_alone(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, image: Image.Image, text: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens of a row, its logits, and the states of the layer in the middle, by the ordinary forward."""
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return inputs["input_ids"][0], output.logits[0], output.hidden_states[2][0]  # 3 layers: the second's


def test_the_verdict_s_loss_is_that_of_the_consistency_question_asked_alone(model, tiny_processor, claimed):
    losses = []
    for image in claimed:
        for claim in image.claims:
            text = render(tiny_processor, CONSISTENCY_QUESTION.format(trigger=claim.text), with_image=True)
            ids, logits, _ = read_alone(model, tiny_processor, image.image, text + ("Yes" if claim.holds else "No"))
            losses.append(cross_entropy(logits[-2], ids[-1]))
    assert len(losses) == 12
    torch.testing.assert_close(compute_verdict_loss(model, tiny_processor, claimed), torch.stack(losses).mean())


def test_each_loss_reads_the_tokens_that_it_names(model, tiny_processor, claimed):
    torch.manual_seed(2)
    heads = LookHeads(64)
    looks, verdict, own, sentence, true = list(LOOKS), [], [], [], []
    right = []
    for image in claimed:
        before = len(tiny_processor(text=[image.prompt], images=[image.image])["input_ids"][0])
        for claim in image.claims:
            text = image.prompt + claim.text + "\n" + ("Yes" if claim.holds else "No")
            ids, logits, middle = read_alone(model, tiny_processor, image.image, text)
            end = before + len(tiny_processor.tokenizer(claim.text)["input_ids"])
            verdict.append(cross_entropy(logits[-2], ids[-1]))
            words = [tiny_processor.tokenizer(word)["input_ids"][0] for word in ("No", "Yes")]
            right.append(float(int(logits[-2][words].argmax()) == claim.holds))
            states = middle[before + SEEN_FROM - 1 : end]
            own += [cross_entropy(head, torch.tensor(looks.index(image.look))) for head in heads.image(states)]
            sentence.append(cross_entropy(heads.sentence(middle[end - 1]), torch.tensor(looks.index(claim.look))))
            if claim.holds:
                true += list(cross_entropy(logits[before - 1 : end - 1], ids[before:end], reduction="none"))
    losses = compute_judging_losses(model, tiny_processor, heads, claimed)
    assert set(losses) == {"verdict", "image", "sentence", "true"}
    torch.testing.assert_close(losses["verdict"], torch.stack(verdict).mean())
    for name, values in {"image": own, "sentence": sentence, "true": true}.items():
        torch.testing.assert_close(losses[name], 0.5 * torch.stack(values).mean(), msg=name)
    assert measure_judge(model, tiny_processor, claimed, SHORT_QUESTION) == sum(right) / len(right)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())
    assert model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_a_finished_stage_is_reused_and_one_of_other_settings_is_refused(model, tiny_processor, tmp_path):
    builds = []

    def build():
        builds.append(None)
        return (model, tiny_processor), {"judged_right": 0.75}

    settings = {"seed": 0, "judge": [(6, 8), {"tower": 1e-4}]}
    (tmp_path / "judge.pt").touch()
    made = keep_stage(tmp_path / "judge", settings, build)
    assert made["judged_right"] == 0.75
    assert not (tmp_path / "judge.pt").exists()
    assert keep_stage(tmp_path / "judge", settings, build) == made
    with pytest.raises(FileExistsError, match="made otherwise"):
        keep_stage(tmp_path / "judge", {**settings, "seed": 1}, build)
    assert len(builds) == 1


def test_a_judge_that_always_says_yes_is_right_half_of_the_time(model, tiny_processor, claimed, monkeypatch):
    yes = tiny_processor.tokenizer("Yes")["input_ids"][0]

    def say_yes(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full((len(states),), yes), model.config.text_config.vocab_size)

    monkeypatch.setattr(model.lm_head, "forward", say_yes)
    for question in (SHORT_QUESTION, QUESTION):
        assert measure_judge(model, tiny_processor, claimed, question) == 0.5
