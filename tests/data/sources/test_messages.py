"""Errors and notes are one line of bounded length, whatever the data hold."""

from emor3_trl.data.sources.messages import build_error, join_counts, join_examples, quote, shorten


def test_text_is_cut_in_the_middle_and_stays_on_one_line():
    assert shorten("a\n b\tc") == "a b c"
    assert shorten("x\x1b[2Jy") == "x?[2Jy"
    assert len(shorten("x" * 10_000_000, 60)) <= 60


def test_values_of_any_size_are_quoted_in_short():
    nested = ["x"] * 9
    for _ in range(12):
        nested = [nested] * 9
    assert len(quote(nested)) <= 62
    assert len(quote({"a": "x" * 1_000_000})) <= 62
    assert quote("joy") == "'joy'"


def test_counts_and_examples_are_listed_the_most_frequent_first():
    assert join_counts({"joy": 1, "fear": 2_000}) == "'fear' 2,000, 'joy' 1"
    assert join_counts({f"word {number}": 1 for number in range(100)}).endswith("more")
    assert len(join_counts({"x" * 1000 + str(number): 1 for number in range(100)})) < 300
    assert join_examples(["a", "b", "c"]) == "'a', 'b'"


def test_an_error_has_a_message_and_a_hint():
    error = build_error("x" * 1000, "Do this.")
    assert len(str(error)) <= 310
    assert str(error).endswith("Do this.")
