"""Tagging: what every head of a model does on one prompt, in one forward pass (paper section 1, DESIGN section 1)."""

from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from apmae.atlas.atlas import Atlas
from apmae.atlas.names import measured_names
from apmae.encode import score_batch
from apmae.errors import SourceError
from apmae.lm.load import LM
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt
from apmae.schema import SCORES, TAGS


class Tagged(NamedTuple):
    """A prompt with its tags."""

    tags: pa.Table
    """``schema.TAGS``: one row a head, ordered by layer, head."""
    window: Window
    """What the model saw."""
    answer: Answer
    """What it answered; ``correct`` means nothing where no completion was given."""


def tag(
    lm: LM, prompt: str, *, suffix: str | None = None, mae: APMAE | None = None, atlas: Atlas | None = None
) -> pa.Table:
    """Tag every head of a model on one prompt, with one forward of the model.

    Args:
        lm: the language model.
        prompt: text before the completion position.
        suffix: text after it, for models that infill.
        mae: the encoder; by default the bundled one.
        atlas: fitted with the same encoder; by default the bundled one.

    Returns:
        ``schema.TAGS``: one row a head with layer, head, cluster (-1: not known), name, strength in [0, 1], the name
        that its own scores give, coordinates and scores.
    """
    mae = mae or APMAE.from_pretrained()
    atlas = atlas or Atlas.load()
    # Without an expected completion any token does: only the answer's outcome depends on it.
    return tag_prompt(lm, text_prompt(prompt, "\n", suffix), mae=mae, atlas=atlas).tags


def tag_prompt(lm: LM, prompt: Prompt, *, mae: APMAE, atlas: Atlas) -> Tagged:
    """As :func:`tag`, for a prompt with its completion, keeping what the model saw and answered."""
    length = min(mae.config.pattern_size, lm.max_length or mae.config.pattern_size)
    captured = next(capture_prompts(lm, [prompt], length=length, batch=1))
    patterns = captured.patterns
    placed = atlas.place(mae.encode(patterns), where=(patterns.layer, patterns.head))
    scores = score_batch(captured)
    names, measured = atlas.names, measured_names(scores.values, scores.key_kinds)
    rows = []
    for i in range(len(patterns)):
        rows.append(
            {
                "layer": int(patterns.layer[i]),
                "head": int(patterns.head[i]),
                "cluster": int(placed.cluster[i]),
                "name": names[int(placed.cluster[i])],
                "strength": float(placed.strength[i]),
                "measured": measured[i],
                "coordinates": placed.coordinates[i].tolist(),
                **{f"score_{name}": float(scores[name][i]) for name in SCORES},
            }
        )
    return Tagged(pa.Table.from_pylist(rows, schema=TAGS), captured.windows[0], captured.answers[0])


def text_prompt(prefix: str, completion: str, suffix: str | None, *, path: str = "", line: int = 1) -> Prompt:
    """A prompt from bare text."""
    return Prompt(
        id=path or "prompt",
        task="custom",
        language="text",
        path=path,
        split="all",
        line=line,
        start=len(prefix),
        prefix=prefix,
        completion=completion,
        suffix=suffix,
    )


def line_prompt(path: Path, line: int, column: int | None = None) -> Prompt:
    """The prompt of completing one line of a file: cursor behind the indentation (or at ``column``), the rest of the
    line is the expected completion, the lines below are the right context.

    Args:
        path: a UTF-8 source file.
        line: from 1.
        column: from 1; None takes the line's first character that is not blank.

    Raises:
        SourceError: if the file cannot be read as UTF-8 or has no such line or column, or nothing is to complete.
    """
    text = read_source(path)
    lines = list(StringIO(text, newline=""))  # lines as editors count them: splitlines() also splits at form feeds
    if not 1 <= line <= len(lines):
        raise SourceError(f"expected a line of {path} in 1-{len(lines)}, got {line}; check --line")
    own = lines[line - 1]
    content = own.rstrip("\r\n")
    cut = len(content) - len(content.lstrip()) if column is None else column - 1
    if not 0 <= cut <= len(content):
        raise SourceError(f"expected a column of line {line} in 1-{len(content) + 1}, got {column}; check --column")
    before = "".join(lines[: line - 1]) + own[:cut]
    completion = own[cut:] if cut == len(content) or not content.strip() else content[cut:]
    if not before or not completion:
        raise SourceError(
            f"expected text before and behind the cursor at {path}:{line}, found none; choose another line or --column"
        )
    after = text[len(before) + len(completion) :]
    return text_prompt(before, completion, after, path=str(path), line=line)


def read_source(path: Path) -> str:
    """A text file as it is, line ends kept.

    Raises:
        SourceError: if it cannot be read as UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise SourceError(f"expected a source file at {path}: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"expected UTF-8 in {path}, byte {error.start} is not; convert the file") from None


def strongest(tags: pa.Table) -> list[dict[str, object]]:
    """Rows of the heads that the atlas knows, strongest first."""
    order = np.argsort(-tags["strength"].to_numpy(), kind="stable")
    return [row for row in tags.take(order).to_pylist() if row["cluster"] >= 0]
