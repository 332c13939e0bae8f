import pyarrow as pa
import pytest

from apmae.report.locations import chance_table, findings, foreign_table, significant
from apmae.schema import FOREIGN, LOCATIONS


@pytest.mark.parametrize(
    ("p", "stands"),
    [
        ([0.01, 0.04, 0.03], [True, False, False]),  # 0.03 is over 0.05 / 2, so what follows falls too
        ([0.02, 0.01, 0.04], [True, True, True]),
        ([0.02, 0.06, 0.06], [False, False, False]),
        ([], []),
    ],
)
def test_holms_correction(p, stands):
    assert significant(p) == stands


def tables(p_correct=0.9, p_foreign=0.9, unique=10, movable=1.0):
    row = dict.fromkeys(LOCATIONS.names, 1) | {
        "task": "math_operator", "unique": unique, "unique_once": unique // 2, "unique_half": 4.2, "unique_null": 6.6,
        "movable": movable,
        "correct": 6, "correct_null": 3.5, "correct_null_sd": 1.0, "correct_p": p_correct, "incorrect_p": 0.8,
    }  # fmt: skip
    other = {
        "task": "math_operator", "correct": 9, "incorrect": 8, "share_correct": 0.01, "share_incorrect": 0.25,
        "null": 0.0, "null_sd": 0.1, "p": p_foreign,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=LOCATIONS), pa.Table.from_pylist([other], schema=FOREIGN)


def test_what_chance_gives_is_no_finding():
    once, outcome, other = findings(*tables())
    assert once.startswith(
        "10 locations are unique to a task; if files were given tasks at random, 7 would be. 5 (50%) "
    )
    assert "with half of the prompts 4 would" in once
    assert outcome.startswith("No task stands out") and "(tests: 2, " in outcome
    assert other.startswith("No task stands out") and "(tests: 1, " in other


def test_a_task_that_cannot_be_shuffled_is_not_tested():
    _, outcome, _ = findings(*tables(p_correct=0.001, movable=0.4))
    assert outcome.startswith("Not tested, ") and outcome.endswith(": math operator.")


def test_what_is_beyond_chance_is_named_with_its_figures():
    _, outcome, other = findings(*tables(p_correct=0.001, p_foreign=0.001))
    assert outcome.endswith("math operator (6 correct only, by chance 3.5).")
    assert other.endswith("math operator (25.0% against 1.0%).")


def test_no_unique_locations_and_no_outcomes():
    locations, _ = tables(unique=0)
    assert findings(locations, FOREIGN.empty_table())[0] == "No location occurs in a single task only."
    row = locations.to_pylist()[0] | {
        name: None for name in LOCATIONS.names if name.split("_")[0] in ("correct", "incorrect", "overlap")
    }
    locations = pa.Table.from_pylist([row], schema=LOCATIONS)
    said = findings(locations, FOREIGN.empty_table())
    assert len(said) == 2 and said[1].startswith("No outcome is known")
    assert chance_table(locations).header[-1] == "stable"


def test_tables_for_the_page():
    locations, foreign = tables()
    table = chance_table(locations)
    assert len(set(table.header)) == len(table.header)
    assert dict(zip(table.header, table.rows[0], strict=True))["correct by chance"] == "3.5 \u00b1 1.0"
    assert foreign_table(foreign).rows[0][:3] == ("math_operator", 9, 8)
