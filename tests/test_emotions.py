"""Label spaces: which label a written answer names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emor3_trl.emotions import AROUSAL, EMOSET_8, EMOTION6, VALENCE, WEBEMO_7, LabelSpace, canonical

SPACES = [EMOSET_8, EMOTION6, WEBEMO_7]
EVERY_LABEL = [pytest.param(space, label, id=f"{space.name}-{label}") for space in SPACES for label in space.labels]


@pytest.mark.parametrize(("space", "label"), EVERY_LABEL)
@pytest.mark.parametrize(
    "written", ["{}", " {}\n", "{}.", '"{}"', "**{}**", r"\text{{{}}}", r"$\mathbf{{\text{{{}}}}}$!"]
)
def test_every_label_is_recognised_however_it_is_dressed(space, label, written):
    assert space.normalise(written.format(label)) == label
    assert space.normalise(written.format(label.upper())) == label


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("awe or fear", id="two"),
        pytest.param("awe, fear", id="list"),
        pytest.param("awe awe", id="repeated"),
        pytest.param("not awe", id="negated"),
        pytest.param(r"\not{awe}", id="latex-negation"),
        pytest.param("awesome", id="longer-word"),
        pytest.param("aw", id="shorter-word"),
        pytest.param("", id="empty"),
        pytest.param(r"\text{}", id="empty-text"),
        pytest.param("joy", id="of-another-space"),
        pytest.param("awe\x00", id="nul"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param(None, id="none"),
        pytest.param(3, id="number"),
        pytest.param(r"\text{" * 30_000, id="deep"),
        pytest.param("{" * 100_000, id="long"),
    ],
)
def test_anything_but_one_label_names_none(text):
    assert EMOSET_8.normalise(text) is None


@given(st.text())
def test_normalise_is_total_and_its_result_is_a_fixed_point(text):
    label = EMOSET_8.normalise(text)
    assert label is None or (label in EMOSET_8.labels and EMOSET_8.normalise(label) == label)
    assert isinstance(canonical(text), str)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_column_value_is_a_name_a_list_or_the_space_itself(space):
    assert LabelSpace.of(space.name) == space
    assert LabelSpace.of(space) is space
    assert LabelSpace.of(list(space.labels)).labels == space.labels


@pytest.mark.parametrize(
    "value",
    ["emoset", [], ["awe"], ["awe", "Awe "], ["awe", ""], ["awe", None]],
    ids=["unknown-name", "empty", "one", "equal", "blank", "null"],
)
def test_a_column_value_that_makes_no_label_space_is_refused(value):
    with pytest.raises(ValueError, match="Expected"):
        LabelSpace.of(value)


def test_labels_of_several_words_ignore_hyphens_and_underscores():
    assert LabelSpace("custom", ("self-pity", "calm")).normalise("Self_Pity") == "self-pity"


def test_every_label_has_a_valence_and_an_arousal():
    labels = {label for space in SPACES for label in space.labels}
    assert set(VALENCE) == set(AROUSAL) == labels
    assert {label for label in EMOSET_8.labels if VALENCE[label] == "positive"} == {
        "amusement", "awe", "contentment", "excitement"
    }  # fmt: skip
