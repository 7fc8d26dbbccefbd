import math

import pytest

from studies import tables


def test_an_interval_is_student_s():
    # Mean 2, standard error 1 / sqrt(3); the 97.5 % quantile of t with 2 degrees of freedom is 4.3027 (tables of t).
    assert tables.interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), 1e-4
    )


def test_differences_are_paired_by_seeds():
    # Differences of 1, 2 and 3 points, whatever the seeds' own levels.
    assert tables.paired([0.11, 0.52, 0.93], [0.10, 0.50, 0.90]) == "+2.0 [-0.5, +4.5]"
    assert tables.paired([0.5], [0.4]) == "-"
    with pytest.raises(ValueError):
        tables.paired([0.5, 0.6], [0.4])


def test_a_table_has_a_line_a_group():
    rows = [{"b": b, "seed": seed, "test": b + seed / 10} for seed in (0, 2) for b in (0.0, 0.5)]
    text = tables.table(rows, ["b"], {"b": "b", "test": lambda group: tables.percent([row["test"] for row in group])})
    assert text.splitlines() == [
        "| b   | test        |",
        "| --- | ----------- |",
        "| -   | 10.0 ± 14.1 |",
        "| 0.5 | 60.0 ± 14.1 |",
    ]
