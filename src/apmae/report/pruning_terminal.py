"""What a terminal shows of a model without heads."""

from apmae.report.ablation import interval
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.pruning import RANKING_WORDS, level, pruning_findings, share
from apmae.study.pruning import Pruning


def print_pruning(found: Pruning) -> None:
    """Print what is left without heads by ranking and dose, and what that says."""
    console, rows = open_console(), found.rows()
    names = list(RANKING_WORDS)
    rows.sort(key=lambda row: (names.index(row["ranking"]), row["dose"]))
    beside = {(row["ranking"], row["dose"]): row for row in found.rows(control="layers")}
    pairs = [beside.get((row["ranking"], row["dose"])) for row in rows]
    columns = [
        Column(header="ranking", cells=[RANKING_WORDS[row["ranking"]] for row in rows]),
        Column(header="heads", cells=[str(row["dose"]) for row in rows]),
        Column(header=f"accuracy ({found.counts['mode']})", cells=[level(row, "drawn") for row in rows]),
        Column(header="kept", cells=[share(row, "kept") for row in rows], priority=4),
        Column(header="natural rate", cells=[level(row, "natural") for row in rows], priority=1),
        Column(
            header="beyond same layers",
            cells=["-" if row is None else interval(row, "drawn_beyond") for row in pairs],
            priority=3,
        ),
        Column(header="log p", cells=[interval(row, "log_probability", 2) for row in rows], priority=2),
        Column(header="elsewhere", cells=[interval(row, "elsewhere", 2) for row in rows], priority=0),
    ]
    print_table(console, columns, "pruning.parquet has everything")
    for line in pruning_findings(found):
        print_point(console, line)
