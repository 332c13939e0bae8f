"""Tagging: what every head of a model does on one prompt, in one forward pass (paper section 1, DESIGN section 1)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.artifacts import manifest_path, replacing, write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import measured_names
from apmae.atlas.names import Measured
from apmae.atlas.place import Placement
from apmae.config import CaptureConfig, LMConfig, Representation
from apmae.encode import score_batch
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.lm.outcome import masks_of, window_of
from apmae.lm.stream import Captured, capture_batch
from apmae.model.folder import expect_shape
from apmae.model.mae import APMAE
from apmae.model.represent import Represented, represented, width_of
from apmae.patterns.gate import unstructured_name
from apmae.patterns.scores import Scores
from apmae.prompts.fim import Window
from apmae.prompts.line import line_prompt, text_prompt
from apmae.prompts.masked import whole_window
from apmae.prompts.prompt import Answer, Prompt
from apmae.report.page import tag_page
from apmae.report.terminal import print_tags
from apmae.schema import NOISE, SCORES, TAGS
from apmae.study.layout import Layout
from apmae.study.reader import Place, Study


class Tagged(NamedTuple):
    """A prompt with its tags."""

    tags: pa.Table
    """``schema.TAGS``: one row per head, ordered by layer, head."""
    window: Window
    """What the model saw."""
    answer: Answer | None
    """What it answered; ``correct`` means nothing where no completion was given. None if it answers nothing
    (``LM.answers``), and where nothing was asked."""


class BatchTags(NamedTuple):
    """What the atlas says of the patterns of some prompts; n patterns, in the order of the capture."""

    seen: Represented
    """What the atlas read, and the gate's statistic."""
    scores: Scores
    placed: Placement
    names: list[str]
    """Of the cluster, without qualifiers that are not true of the pattern; of a pattern that fails the gate, why."""
    measured: list[str]
    """What the pattern's own scores call it."""
    stability: Float[ndarray, " n"]
    """The smaller of its cluster's Jaccard indices over halves of the prompts and over seeds; NaN if it is in none."""
    unstable: Bool[ndarray, " n"]
    """Whether its cluster is; False if it is in none."""


def tag(
    lm: LM, prompt: str, *, suffix: str | None = None, mae: APMAE | None = None, atlas: Atlas | None = None
) -> pa.Table:
    """Tag every head of a model on one prompt, with one forward of the model.

    Args:
        lm: the language model.
        prompt: text before the completion position; for an encoder without ``suffix`` the text that it reads.
        suffix: text after the completion position, for models that infill and for encoders.
        mae: the encoder; by default the bundled one.
        atlas: fitted with the same encoder; by default the bundled one.

    Returns:
        ``schema.TAGS``: one row per head with layer, head, cluster (-1: not known), name, strength in [0, 1], why
        it is not known, its cluster's stability, the name that its own scores give, the nearest clusters and
        exemplars, coordinates and scores.

    Raises:
        CaptureError: if the model is an encoder and ``mae`` reads causal patterns, as the bundled one does.
        ConfigError: if the atlas was fitted with another encoder, or on rows of another width.
    """
    mae = mae or APMAE.from_pretrained()
    expect_shape(causal=mae.config.causal, found=lm.causal)
    atlas = atlas or Atlas.load()
    # No completion is expected, so any token will do: only the answer's outcome depends on it.
    completion = "\n" if lm.causal else masks_of(lm).text if suffix is not None else ""
    return tag_prompt(lm, text_prompt(prompt, completion, suffix), mae=mae, atlas=atlas).tags


def tag_prompt(lm: LM, prompt: Prompt, *, mae: APMAE, atlas: Atlas) -> Tagged:
    """As :func:`tag`, for a prompt with its completion; also returns what the model saw and answered.

    An encoder reads a prompt without completion and suffix as it is, and answers nothing.
    """
    expect_fit(atlas, mae)  # before anything runs
    expect_shape(causal=mae.config.causal, found=lm.causal)
    size = min(mae.config.pattern_size, lm.max_length or mae.config.pattern_size)
    captured = capture_batch(lm, [prompt], [_window(lm, prompt, size)], CaptureConfig(batch=1), size=size)
    tags = tag_batch(captured, mae=mae, atlas=atlas, unseen=is_unseen(atlas, lm.name))
    patterns, scores, placed, names = captured.patterns, tags.scores, tags.placed, atlas.names
    tokens = captured.windows[0].tokens
    exemplars = _exemplars(atlas, placed)
    rows = [
        {
            "layer": int(patterns.layer[i]),
            "head": int(patterns.head[i]),
            "cluster": int(placed.cluster[i]),
            "name": tags.names[i],
            "strength": float(placed.strength[i]),
            "reason": str(placed.reason[i]),
            "stability": None if np.isnan(tags.stability[i]) else float(tags.stability[i]),
            "unstable": bool(tags.unstable[i]),
            "structure": float(tags.seen.structure[i]),
            "measured": tags.measured[i],
            "nearest": [names[number] for number in placed.nearest[i].tolist() if number != NOISE],
            "distances": [distance for distance in placed.distances[i].tolist() if distance < inf],
            "exemplars": exemplars[i],
            "coordinates": placed.coordinates[i].tolist(),
            **{f"score_{name}": float(scores[name][i]) for name in SCORES},
            "sinks": scores.sinks[i],
            "sink_tokens": [tokens[position] for position in scores.sinks[i]],
        }
        for i in range(len(patterns))
    ]
    return Tagged(pa.Table.from_pylist(rows, schema=TAGS), captured.windows[0], captured.answers[0])


def tag_batch(captured: Captured, *, mae: APMAE, atlas: Atlas, unseen: bool) -> BatchTags:
    """What the atlas says of every pattern of a batch of prompts.

    Args:
        captured: the batch.
        mae: the encoder.
        atlas: fitted with the same encoder.
        unseen: whether it was fitted on other models (:func:`is_unseen`).
    """
    patterns = captured.patterns
    scores = score_batch(captured)
    seen = represented(patterns, mae, representation_of(atlas))
    own = Measured(scores.values, scores.key_kinds, scores.query_kinds)
    placed = atlas.place(
        seen.z,
        where=(patterns.layer, patterns.head),
        structured=seen.structured,
        measured=own,
        unseen=unseen,
    )
    names = atlas.names_of(placed.cluster, own)
    for row in np.flatnonzero(~seen.structured).tolist():
        names[row] = unstructured_name(float(scores["uniform"][row]))
    clusters = atlas.clusters
    either = np.minimum(clusters["stability"].to_numpy(), clusters["seed_stability"].to_numpy())
    stability = np.append(either, np.nan).astype(np.float32)[placed.cluster]  # last: of noise, -1
    unstable = np.array([*clusters["unstable"].to_pylist(), False])[placed.cluster]
    measured = measured_names(scores.values, scores.key_kinds)
    return BatchTags(seen, scores, placed, names, measured, stability, unstable)


def _exemplars(atlas: Atlas, placed: Placement) -> list[list[dict[str, Any]]]:
    """The exemplars of each pattern, the nearest first, with where they came from."""
    known = placed.exemplars >= 0
    if atlas.origins is None or not known.any():
        return [[] for _ in placed.cluster]
    rows = [
        {"cluster": cluster, **origin, "distance": distance}
        for cluster, origin, distance in zip(
            placed.exemplar_clusters[known].tolist(),
            atlas.origins.take(pa.array(placed.exemplars[known])).to_pylist(),
            placed.exemplar_distances[known].tolist(),
            strict=True,
        )
    ]
    return [rows[begin:end] for begin, end in pairwise([0, *known.sum(1).cumsum().tolist()])]


def note_of(atlas: Atlas, model: str) -> str:
    """What to say first of an atlas that was not fitted on this model; "" if it was, or if nobody knows."""
    if not is_unseen(atlas, model):
        return ""
    others = ", ".join(atlas.models)
    return (
        f"The atlas was fitted on other models ({others}). A head is in one of its clusters only if its own scores "
        "lead with the same kind; the others are unknown."
    )


def is_unseen(atlas: Atlas, model: str) -> bool:
    """Whether an atlas was fitted on other models than this one; False if nobody knows on which."""
    return bool(atlas.models) and model not in atlas.models


def representation_of(atlas: Atlas) -> Representation:
    """What to read of patterns for an atlas; joint if it was fitted on bare arrays."""
    return atlas.representation or "joint"


def expect_fit(atlas: Atlas, mae: APMAE) -> None:
    """Refuse an encoder whose representation is not what the atlas was fitted on."""
    atlas.expect_encoder(mae)
    atlas.expect_constants()
    kind = representation_of(atlas)
    atlas.expect_representation(kind, width_of(kind, mae.config.encoder_dim))


def open_pair(encoder: str, atlas: str) -> tuple[APMAE, Atlas]:
    """An encoder and an atlas that was fitted with it.

    Raises:
        ConfigError: if they do not belong together.
        ModelError: if there is no such encoder.
        ArtifactError: if there is no such atlas.
    """
    mae, places = APMAE.from_pretrained(encoder), Atlas.load(atlas)
    try:
        expect_fit(places, mae)
    except ConfigError as error:
        raise ConfigError(f"--encoder {encoder} and --atlas {atlas}: {error}") from None
    return mae, places


def _kept_patterns(atlas: str, rows: Sequence[Mapping[str, Any]]) -> dict[Place, Float[ndarray, "t t"]]:
    """The whole patterns of exemplars, if the atlas is that of a study, which keeps some; else none."""
    folder = Path(atlas)
    if atlas == "bundled" or Layout(folder.parent).atlas != folder or not manifest_path(folder).is_file():
        return {}
    places = {
        (exemplar["prompt"], exemplar["layer"], exemplar["head"])
        for row in rows
        for exemplar in row["exemplars"]
        if exemplar["variant"] is None
    }
    try:
        return Study(folder.parent).patterns_at(places)
    except ArtifactError:  # not the atlas of these embeddings, or they are gone: then there is nothing to draw
        return {}


def _window(lm: LM, prompt: Prompt, size: int) -> Window:
    if prompt.completion or lm.causal:
        return window_of(lm, prompt, size)
    return whole_window(lm.backend_tokenizer, prompt.prefix, length=size, masks=masks_of(lm))


def tag_file(
    lm: LMConfig,
    file: Path,
    line: int,
    *,
    column: int | None = None,
    encoder: str = "bundled",
    atlas: str = "bundled",
    json: Path | None = None,
    html: Path | None = None,
) -> None:
    """Tag every head of a model on the completion of one line; write the tags where asked, then print them.

    Args:
        lm: the language model.
        file: source file with the line.
        line: from 1.
        column: where in the line, from 1; by default its first character that is not blank.
        encoder: folder or hub id of an AP-MAE, or "bundled".
        atlas: folder of an atlas fitted with that encoder, or "bundled".
        json: where to write every head's tag as JSON.
        html: where to write a page.

    Raises:
        ConfigError: as :func:`tag`.
        SourceError: as :func:`line_prompt`.
        ModelError: if a model cannot be loaded.
    """
    prompt = line_prompt(file, line, column)
    mae, places = open_pair(encoder, atlas)
    model = load(lm)
    tagged = tag_prompt(model, prompt, mae=mae, atlas=places)
    rows, answer, expected = tagged.tags.to_pylist(), tagged.answer, tagged.window.text
    note = note_of(places, model.name)
    predicted, outcome = (None, None) if answer is None else (answer.predicted, answer.outcome)
    if json:
        # JSON has no NaN, which a score is if the prompt has no row to measure it on.
        finite = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        record = {
            "model": lm.source,
            "file": str(file),
            "line": line,
            "expected": expected,
            "predicted": predicted,
            "outcome": outcome,
            "text_correct": answer and answer.text_correct,
            "token_correct": answer and answer.token_correct,
            "layers": model.num_layers,
            "heads_by_layer": list(model.heads_by_layer),
            "note": note,
            "heads": finite,
        }
        write_json(json, record)
    if html:
        title = f"{lm.source}: {file.name}, line {line}"
        tokens = list(tagged.window.tokens)
        page = tag_page(
            title=title,
            tokens=tokens,
            rows=rows,
            heads_by_layer=model.heads_by_layer,
            predicted=predicted,
            expected=expected,
            outcome=outcome,
            note=note,
            patterns=_kept_patterns(atlas, rows),
        )
        with replacing(html) as written:
            written.write(page)
    print_tags(
        rows,
        model.heads_by_layer,
        note=note,
        predicted=predicted,
        expected=expected,
        outcome=outcome,
    )
