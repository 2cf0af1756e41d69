"""The paper's own rows add up to its averages, and its claims are those of its tables."""

import pytest

from emor3_trl.reproduce.paper import CLAIMS, PAPER, average_columns, read_paper_difference
from emor3_trl.reproduce.systems import SYSTEMS, TABLES

ROWS = [(table, name) for table, rows in PAPER.items() for name in rows]


@pytest.mark.parametrize(("table", "name"), ROWS, ids=[f"table {table}, {name}" for table, name in ROWS])
def test_averages_of_the_papers_columns_are_those_that_it_prints(table: int, name: str) -> None:
    row = PAPER[table][name]
    averages = average_columns({key: value for key, value in row.items() if isinstance(key, tuple)})
    for key in ("A^I", "A^O", "A") if table == 1 else ("A",):
        assert averages[key] == pytest.approx(row[key], abs=0.0051), key


@pytest.mark.parametrize(("table", "name"), ROWS, ids=[f"table {table}, {name}" for table, name in ROWS])
def test_each_row_of_the_paper_is_a_system_of_that_table(table: int, name: str) -> None:
    assert name in SYSTEMS
    assert name in TABLES[table]


def test_averages_count_every_column_the_same() -> None:
    accuracies = {
        ("a", "a"): 90.0,
        ("a", "b"): 30.0,
        ("a", "c"): 60.0,
        ("b", "b"): 70.0,
        ("b", "a"): 50.0,
        ("b", "c"): 0.0,
    }
    assert average_columns(accuracies) == {"A^I": 80.0, "A^O": 35.0, "A": 50.0}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_the_papers_table_says_what_a_claim_says(claim) -> None:
    assert read_paper_difference(claim) > 0
