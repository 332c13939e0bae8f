"""Pattern locations of several corpora side by side, for instance of languages: tags by the same atlas of one model.

A corpus is what one folder of tags has. A location is unique to a corpus if no prompt of another one has it. Were a
prompt's corpus of no importance, another one's files with equally many prompts of the task could stand in its place:
that is the null. And the paper's conjecture (section 6.2) for languages: do incorrect prompts look like another one?

Axes: p prompts of all corpora, k locations, c corpora, r permutations.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.analyze.database import columns_of, over
from apmae.analyze.foreign import foreign_of, foreign_shares, halves
from apmae.analyze.locations import against_chance
from apmae.analyze.occurrence import LOCATION, Prompts, prompts_of
from apmae.analyze.resampling import null_of, permuted_outcomes
from apmae.config import LocationsConfig
from apmae.schema import CORPORA, CORPORA_FOREIGN, CORPORA_LOCATIONS, CORPORA_TASKS
from apmae.study.placed import Placed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from scipy.sparse import csr_matrix


class Tables(NamedTuple):
    """What corpora side by side give."""

    locations: pa.Table
    """``schema.CORPORA_LOCATIONS``: Table 5 of each corpus by itself, against chance."""
    tasks: pa.Table
    """``schema.CORPORA_TASKS``: whether incorrect prompts of a corpus look like another of its tasks."""
    corpora: pa.Table
    """``schema.CORPORA``: what is unique to a corpus, against chance."""
    foreign: pa.Table
    """``schema.CORPORA_FOREIGN``: whether incorrect prompts look like another corpus."""


def compare_corpora(
    corpora: Mapping[str, Placed],
    config: LocationsConfig,
    tell: Callable[[str], None] = lambda _: None,
) -> Tables:
    """Set the locations of several corpora side by side.

    Args:
        corpora: by name; placed by the same atlas, patterns of the same model.
        config: permutations, seed.
        tell: called with what is done next.
    """
    locations, tasks = [], []
    for name, corpus in corpora.items():
        tell(f"locations of {name}")
        own, foreign = against_chance(
            corpus.point_files, corpus.prompt_files, corpus.clusters, config, per_head=corpus.per_head
        )
        locations += [{**row, "corpus": name} for row in own.to_pylist()]
        tasks += [{**row, "corpus": name} for row in foreign.to_pylist()]
    with _together(corpora) as found:
        tell("what is unique to a corpus")
        prompts = prompts_of(found, files=True)
        task, names = _tasks(found, prompts)
        unique = _unique(found, prompts, task, names, config)
        tell("other corpora's own")
        foreign = _foreign(found, prompts, task, names, config) if prompts.asked else []
    return Tables(
        pa.Table.from_pylist(locations, schema=CORPORA_LOCATIONS),
        pa.Table.from_pylist(tasks, schema=CORPORA_TASKS),
        pa.Table.from_pylist(unique, schema=CORPORA),
        pa.Table.from_pylist(foreign, schema=CORPORA_FOREIGN),
    )


@contextmanager
def _together(corpora: Mapping[str, Placed]) -> Iterator["DuckDBPyConnection"]:
    """DuckDB over all corpora: the views ``points``, in which a prompt's task is its corpus, ``known`` and ``prompts``.

    Prompts are numbered through, and files of the same name in two corpora are two files.
    """
    views = {f"tags{number}": corpus.point_files for number, corpus in enumerate(corpora.values())}
    views |= {f"asked{number}": corpus.prompt_files for number, corpus in enumerate(corpora.values())}
    with over(**views) as found:
        points, prompts, first = [], [], 0
        for number, name in enumerate(corpora):
            label = "'" + name.replace("'", "''") + "'"
            points.append(
                f"SELECT prompt::BIGINT + {first} AS prompt, layer, head, task AS of, {label} AS task, outcome, "
                f"cluster FROM tags{number}"
            )
            prompts.append(f"SELECT prompt::BIGINT + {first} AS prompt, '{number}/' || path AS path FROM asked{number}")
            ((last,),) = found.execute(f"SELECT coalesce(max(prompt), -1) FROM asked{number}").fetchall()
            first += int(last) + 1
        found.execute(f"CREATE VIEW points AS {' UNION ALL '.join(points)}")
        found.execute(f"CREATE VIEW prompts AS {' UNION ALL '.join(prompts)}")
        found.execute(f"CREATE VIEW known AS SELECT *, {LOCATION} AS location FROM points WHERE cluster >= 0")
        yield found


def _tasks(found: "DuckDBPyConnection", prompts: Prompts) -> tuple[Int[ndarray, " p"], list[str]]:
    """Number of each prompt's task, and the tasks, in alphabetical order."""
    rows = columns_of(found, "SELECT prompt, any_value(of) AS of FROM points GROUP BY prompt ORDER BY prompt")
    names, task = np.unique(rows["of"].astype(str), return_inverse=True)
    return task.astype(np.int64).ravel(), names.tolist()


def _unique(
    found: "DuckDBPyConnection", prompts: Prompts, task: Int[ndarray, " p"], names: list[str], config: LocationsConfig
) -> list[dict[str, Any]]:
    """Rows of ``schema.CORPORA``."""
    from scipy.sparse import csr_matrix

    rows = columns_of(found, "SELECT prompt, location FROM known ORDER BY prompt, location")
    codes, place = np.unique(rows["location"], return_inverse=True)
    column = np.searchsorted(prompts.number, rows["prompt"])
    seen = csr_matrix((np.ones(len(place), np.float32), (place, column)), (len(codes), len(prompts.number)))
    # Labels instead of outcomes. Over all tasks whole files move, inside one its prompts of that task.
    by_task = prompts._replace(task=task, tasks=tuple(names), correct=prompts.task)
    whole = by_task._replace(task=np.zeros_like(task), tasks=("all",))
    parts = [np.arange(len(task)), *(np.flatnonzero(task == number) for number in range(len(names)))]
    matrices = [seen[:, columns] for columns in parts]
    nulls: list[list[Int[ndarray, "c r"]]] = [[] for _ in parts]
    moved = np.zeros((2, len(task)), bool)
    for ever, shuffled, some in zip(moved, (whole, by_task), ([0], range(1, len(parts))), strict=True):
        for labels in permuted_outcomes(shuffled, config.permutations, config.seed):
            ever |= (labels != prompts.task[:, None]).any(1)
            for part in some:
                nulls[part].append(_counts(matrices[part], labels[parts[part]], len(prompts.tasks)).sum(0))
    made = []
    for corpus, name in enumerate(prompts.tasks):
        for part, columns in enumerate(parts):
            of = columns[prompts.task[columns] == corpus]
            if not len(of):
                continue
            inside = np.asarray(matrices[part] @ (prompts.task[columns] == corpus).astype(np.float32)).ravel()
            outside = np.asarray(matrices[part].sum(1)).ravel() - inside
            only = (inside > 0) & (outside == 0)
            null = np.concatenate(nulls[part], axis=1)[corpus].astype(np.float64)
            mean, sd, p = null_of(float(only.sum()), null)
            made.append(
                {
                    "corpus": name,
                    "task": None if part == 0 else names[part - 1],
                    "prompts": len(of),
                    "files": len(np.unique(prompts.file[of])),
                    "total": int((inside > 0).sum()),
                    "unique": int(only.sum()),
                    "unique_once": int((only & (inside == 1)).sum()),
                    "unique_null": mean,
                    "unique_null_sd": sd,
                    "unique_p": p,
                    "movable": float(moved[min(part, 1), of].mean()),
                }
            )
    return made


def _counts(seen: "csr_matrix", labels: Int[ndarray, "p r"], corpora: int) -> Int[ndarray, "k c r"]:
    """Which locations occur in one corpus only, if prompts had these labels."""
    total = np.asarray(seen.sum(1))
    inside = np.stack([seen @ (labels == corpus).astype(np.float32) for corpus in range(corpora)], axis=1)
    return ((inside > 0) & (inside == total[:, None])).astype(np.int64)


def _foreign(
    found: "DuckDBPyConnection", prompts: Prompts, task: Int[ndarray, " p"], names: list[str], config: LocationsConfig
) -> list[dict[str, Any]]:
    """Rows of ``schema.CORPORA_FOREIGN``: what is own is read from all tasks of a corpus; outcomes move inside one."""
    half = halves(prompts, config.seed)
    shares: Float[ndarray, " p"] = foreign_shares(found, prompts, half)
    strata = prompts.task * len(names) + task
    made = []
    labels = [(corpus, None) for corpus in prompts.tasks]
    labels += [(corpus, name) for corpus in prompts.tasks for name in names]
    for groups, own in ((prompts.task, labels[: len(prompts.tasks)]), (strata, labels[len(prompts.tasks) :])):
        of = prompts._replace(task=groups, tasks=tuple(str(number) for number in range(len(own))))
        rows = foreign_of(shares, of, half, config.permutations, config.seed, strata=strata)
        for row in rows:
            corpus, name = own[int(row.task)]
            made.append({**row._asdict(), "corpus": corpus, "task": name})
    order = {name: number for number, name in enumerate(prompts.tasks)}
    return sorted(made, key=lambda row: (order[row["corpus"]], row["task"] or ""))
