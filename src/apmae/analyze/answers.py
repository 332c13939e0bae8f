"""The prompts whose outcome can be predicted: the model's answers, and which prompts must stay together.

Axes: n prompts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.artifacts import manifest_path, read_manifest, read_tables
from apmae.config import PredictConfig
from apmae.errors import ArtifactError, ConfigError
from apmae.prompts.sentinels import split_template
from apmae.prompts.similar import alike
from apmae.study.layout import Layout
from apmae.study.reader import Study

_COLUMNS = ["prompt", "task", "path", "tokens", "outcome", "predicted", "max_probability", "margin", "entropy"]
SIMILAR = PredictConfig().similar


class Seen(NamedTuple):
    """What is known of prompts when they are answered, before anybody says whether that is right."""

    task: Int[ndarray, " n"]
    """Number of the task, from 0; -1 for one that is not among those known."""
    max_probability: Float[ndarray, " n"]
    margin: Float[ndarray, " n"]
    entropy: Float[ndarray, " n"]
    """Of the model's next token, in nats."""
    predicted: tuple[str, ...]
    """The text of the token that the model answers (:func:`first_token`)."""
    tokens: tuple[tuple[str, ...], ...]
    """Texts of the window's tokens, as the model read them."""
    prefix: Int[ndarray, "n 2"]
    """Where the prefix begins in the window, and where it ends."""


class Answers(NamedTuple):
    """Prompts with an outcome, of tasks with both; one row each, in the order of their numbers."""

    prompt: Int[ndarray, " n"]
    tasks: tuple[str, ...]
    """In the order of the alphabet; ``seen.task`` are their numbers."""
    correct: Bool[ndarray, " n"]
    group: Int[ndarray, " n"]
    """Prompts of one file have the same number, from 0, as do files with windows that are nearly the same."""
    seen: Seen
    vocabulary: frozenset[str]
    """Texts of the tokens in all windows."""
    left_out: dict[str, int]
    """Prompts left out, by reason."""
    files: int
    """Source files."""

    @property
    def task(self) -> Int[ndarray, " n"]:
        """Number of the task, in ``tasks``."""
        return self.seen.task

    @property
    def groups(self) -> int:
        """Parts that splits keep whole: at most as many as files."""
        return int(self.group.max(initial=-1)) + 1


class Drawn(NamedTuple):
    """How the prompts of a study were chosen by outcome."""

    how: str
    """"balanced", "any", "correct" or "unknown"."""
    natural: float | None
    """Share of correct ones among all prompts that the model was asked; None if it cannot be told."""
    by_task: Mapping[str, float] = MappingProxyType({})
    """The same by task, half a prompt of each outcome added so that none is 0 or 1; empty if it cannot be told."""


def read_answers(study: Study, similar: float = SIMILAR) -> Answers:
    """The answers of a study's prompts; see :func:`answers_of`."""
    prompts = read_tables(study.embeddings_folder, "encode", "prompts", _COLUMNS)
    return answers_of(prompts, infill_of(study), similar, study.embeddings_folder)


def infill_of(study: Study) -> str:
    """The template of a study's windows, or "none"."""
    return str(study.encoded.config.get("infill", "none"))


def answers_of(
    prompts: pa.Table, infill: str = "none", similar: float = SIMILAR, where: Path = Path("the study")
) -> Answers:
    """The prompts whose outcome can be predicted.

    Args:
        prompts: ``schema.ENCODED_PROMPTS``.
        infill: template of the windows, or "none".
        similar: share of a window, in (0, 1], from which two files that have it in common stay together.
        where: named in errors.

    Raises:
        ConfigError: if no prompt has an outcome, no task has both outcomes, or all prompts are of one file.
    """
    known = [row for row in prompts.select(_COLUMNS).to_pylist() if row["outcome"] and row["predicted"] is not None]
    if not known:
        raise ConfigError(
            f"expected prompts with outcomes in {where}, found none; encode prompts with a model that answers"
        )
    outcomes: dict[str, set[str]] = {}
    for row in known:
        outcomes.setdefault(row["task"], set()).add(row["outcome"])
    rows = sorted((row for row in known if len(outcomes[row["task"]]) == 2), key=lambda row: row["prompt"])
    left_out = Counter({f"{task}: all {next(iter(seen))}": 0 for task, seen in outcomes.items() if len(seen) == 1})
    for row in known:
        if len(outcomes[row["task"]]) == 1:
            left_out[f"{row['task']}: all {row['outcome']}"] += 1
    if prompts.num_rows > len(known):
        left_out["without an outcome"] = prompts.num_rows - len(known)
    if not rows:
        raise ConfigError(
            f"expected a task with correct and incorrect prompts in {where}, found none ({_listed(left_out)}); "
            "draw prompts with --set outcome=balanced"
        )
    tasks = tuple(sorted({row["task"] for row in rows}))
    number = {task: place for place, task in enumerate(tasks)}
    tokens = tuple(tuple(row["tokens"]) for row in rows)
    paths = [row["path"] for row in rows]
    vocabulary = frozenset[str]().union(*tokens)
    seen = Seen(
        task=np.array([number[row["task"]] for row in rows], np.int64),
        max_probability=_floats(rows, "max_probability"),
        margin=_floats(rows, "margin"),
        entropy=_floats(rows, "entropy"),
        predicted=tuple(first_token(row["predicted"], vocabulary) for row in rows),
        tokens=tokens,
        prefix=np.array([prefix_of(own, infill) for own in tokens], np.int64).reshape(-1, 2),
    )
    return Answers(
        prompt=np.array([row["prompt"] for row in rows], np.int64),
        tasks=tasks,
        correct=np.array([row["outcome"] == "correct" for row in rows]),
        group=together(paths, ["".join(own) for own in tokens], similar),
        seen=seen,
        vocabulary=vocabulary,
        left_out=dict(left_out),
        files=len(set(paths)),
    )


def expect_files(answers: Answers, folds: int) -> None:
    """Refuse too few files for as many folds.

    Raises:
        ConfigError: if prompts are all of one file, or there are fewer files than folds.
    """
    found = answers.groups
    same = f" ({answers.files} files, some with nearly the same windows)" if answers.files > found else ""
    if found < 2:
        raise ConfigError(
            f"expected prompts of two files or more, of which some are fitted and others predicted, found one{same}; "
            "encode prompts of more files"
        )
    if found < folds:
        raise ConfigError(
            f"expected at least as many files as folds, {folds}, found {found}{same}; "
            f"take --folds {found} or encode prompts of more files"
        )


def first_token(answer: str, known: frozenset[str]) -> str:
    """The token that an answer begins with: the longest of the known ones, as tokenizers take it.

    Where the first token agrees with the completion so far, answers go on until that is decided
    (``prompts.prompt.Answer.predicted``). Their length would give away who is right, and a token that is found alone in
    wrong answers only would be taken for a bad one. So all answers are cut alike, by a rule that knows no outcome.

    Args:
        answer: as text.
        known: texts of tokens. If the answer begins with none of them, it stays whole.
    """
    return next((answer[:end] for end in range(len(answer), 0, -1) if answer[:end] in known), answer)


def together(paths: Sequence[str], windows: Sequence[str], similar: float) -> Int[ndarray, " n"]:
    """A number for each prompt, the same where the file is the same or has a window that is nearly the same, also
    through others.

    Args:
        paths: of the files.
        windows: their texts.
        similar: as for :func:`apmae.prompts.similar.alike`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    files = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    file = np.array([files[path] for path in paths], np.int64)
    pairs = file[np.array(alike(windows, similar), np.int64).reshape(-1, 2)]
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (len(files), len(files)))
    return connected_components(links, directed=False)[1][file].astype(np.int64)


def prefix_of(tokens: tuple[str, ...], infill: str) -> tuple[int, int]:
    """Where the prefix begins in a window and where it ends; the whole window if it has no sentinels.

    Args:
        tokens: of the window, as texts.
        infill: its template, or "none".
    """
    (before, between, after), suffix_first = split_template(infill)
    opener, closer = (between, after) if suffix_first else (before, between)
    middle = _find(tokens, between)
    if not between or middle is None:
        return 0, len(tokens)
    if suffix_first:
        end = _find(tokens, closer, last=True) if closer else (len(tokens), len(tokens))
        return middle[1], len(tokens) if end is None else end[0]
    begin = _find(tokens, opener) if opener else (0, 0)
    return 0 if begin is None else begin[1], middle[0]


def _find(tokens: tuple[str, ...], text: str, *, last: bool = False) -> tuple[int, int] | None:
    """Where the tokens that spell a text begin and end."""
    places = range(len(tokens))
    for place in reversed(places) if last else places:
        found, end = "", place
        while end < len(tokens) and len(found) < len(text) and text.startswith(found + tokens[end]):
            found, end = found + tokens[end], end + 1
        if text and found == text:
            return place, end
    return None


def drawn_of(study: Study) -> Drawn:
    """How a study's prompts were chosen by outcome; see :func:`drawn_from`."""
    return drawn_from(Layout(study.folder).prompts, study.encoded.inputs.get("prompts"))


def drawn_from(path: Path, sha256: str | None) -> Drawn:
    """How prompts were chosen by outcome, as the manifest beside their file says, if it is of these prompts.

    Balanced draws count the surplus of either outcome, so the natural share can be estimated from all that were asked.

    Args:
        path: the file.
        sha256: of the file that was read.
    """
    if not manifest_path(path).is_file():
        return Drawn("unknown", None)
    try:
        manifest = read_manifest(path, "prompts")
    except ArtifactError:
        return Drawn("unknown", None)
    if manifest.files.get(path.name, {}).get("sha256") != sha256:
        return Drawn("unknown", None)
    how = str(manifest.config.get("outcome", "unknown"))
    counts = list(manifest.counts.get("prompts", {}).values())
    right, wrong = (sum(count[name] for count in counts) for name in ("correct", "incorrect"))
    rejected = manifest.counts.get("rejected", {})
    if how == "balanced":
        right, wrong = right + rejected.get("surplus_correct", 0), wrong + rejected.get("surplus_incorrect", 0)
    if not right + wrong or how not in ("balanced", "any"):
        return Drawn(how, None)
    asked = manifest.counts.get("outcomes", {})
    return Drawn(how, right / (right + wrong), {task: _rate(**outcomes) for task, outcomes in sorted(asked.items())})


def _rate(correct: int = 0, incorrect: int = 0) -> float:
    return (correct + 0.5) / (correct + incorrect + 1)


def _floats(rows: list[dict[str, Any]], name: str) -> Float[ndarray, " n"]:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
