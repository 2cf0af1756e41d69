"""A label space is read from a file that a user wrote; one that is none is shown, in one line."""

import pytest

from emor3_trl.data.sources.label_space import read_label_space


def test_a_label_space_is_read_from_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("labels: [joy, 'no']\nmap: {Happy: joy, 3: 'no', unsure: null}\n")
    space, spelled = read_label_space(tmp_path / "mine.yaml")
    assert (space.name, space.labels) == ("mine", ("joy", "no"))
    assert spelled == {"happy": "joy", "3": "no", "unsure": None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("labels: [joy, anger", "is not YAML"),
        ("joy, anger", "is not a label space"),
        ("labels: [joy]", "two or more labels"),
        ("labels: [joy, anger]\nmap: [happy]", "`map` of"),
        ("labels: [joy, null]", "holds None, which YAML does not read as a word"),
        ("labels: [joy, anger]\nmap: {no: null}", "holds False, .*Quote it"),
        ("labels: [joy, anger]\nmap: {happy: glad}", "maps 'happy' to 'glad', which is none of joy, anger"),
        ("labels: [joy, anger]\nmap: {Happy: joy, happy: anger}", "maps 'happy' to 'joy' and to 'anger'"),
        ("name: [a, b]\nlabels: [joy, anger]", "which YAML does not read as a word"),
        ("labels: [" + ", ".join(f"w{number}" for number in range(300)) + "]", "has 300 labels"),
        (
            "\n".join(
                ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8)]
                + ["labels: [*a7, joy]"]
            ),
            "which YAML does not read as a word",
        ),
    ],
)
def test_a_label_space_that_is_none_is_shown(tmp_path, content, words):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(ValueError, match=words) as refusal:
        read_label_space(tmp_path / "space.yaml")
    assert len(str(refusal.value)) < 600
