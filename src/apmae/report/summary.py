"""What a study found, in plain words: the numbers of its tables, without further judgement."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from apmae.report.tables import Table, describe_heads, head_name, shares_of_names
from apmae.study.reader import Study

STEADY = 0.9
"""Smallest share of a head's patterns in one cluster at which it does one thing almost always."""
_NAMES = 6
_HEADS = 8
_DENSER = (
    "Figure 6 shows whether there is anything to find: separate islands in its panel B. If there are any, {allow}. If "
    "not, encode more prompts, or train the encoder for longer, until Figure 3 looks right."
)
_SMALLER = (
    "allow smaller clusters (min_cluster_size of apmae cluster), or look at those too that half of the prompts do not "
    "show again (--preset paper)"
)
_WIDER = "allow smaller or wider clusters (min_cluster_size, epsilon, max_mean_distance of apmae cluster)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Sentences for the top of the page, in reading order."""

    model: str
    opening: str
    clusters: str
    names: tuple[str, ...]
    """The most common names, with their share of all patterns."""
    steady: tuple[str, ...]
    """Heads that do one thing almost always, by what they do."""
    steady_heads: int
    next: tuple[str, ...]
    """Where to look next."""


def model_name(study: Study) -> str:
    """The language model's name in the manifest; "a language model" if the manifest has none."""
    noted = study.encoded.counts.get("lm") or study.encoded.config.get("lm")
    return {"bundled": "the bundled model", "": "a language model"}.get(str(noted or ""), str(noted))


def summarize(study: Study, tables: dict[str, Table]) -> Summary:
    """Put the study's main numbers into sentences.

    Args:
        study: whose manifests have the counts.
        tables: name -> table: clustering, locations, clusters, heads, outcomes.
    """
    clusters, clustered, total, percentage = tables["clustering"].rows[0]
    prompts = study.prompts.num_rows
    opening = (
        f"{total:,} patterns of {_count(prompts, 'prompt')} over "
        f"{describe_heads(study.heads_by_layer)} of {model_name(study)}."
    )
    if clusters:
        hold = "holds" if clusters == 1 else "hold"
        held = f"{_count(clusters, 'named cluster')} {hold} {percentage:.1f}% of the patterns."
    else:
        held = "No cluster was found, so there is nothing to name."
    steady, count = _steady(tables["heads"])
    return Summary(
        model=model_name(study),
        opening=opening,
        clusters=held + _dropped(study),
        names=tuple(
            f"{name}: {share:.1%} of all patterns, in {_count(number, 'cluster')}"
            for name, number, share in shares_of_names(tables["clusters"])[:_NAMES]
        ),
        steady=steady,
        steady_heads=count,
        next=_next(study, tables) if clustered else (_denser(study),),
    )


def _denser(study: Study) -> str:
    """What may find clusters; only the paper's and those per head have filters."""
    stable = study.clustered.config.get("clusterer", "stable") == "stable"
    return _DENSER.format(allow=_SMALLER if stable else _WIDER)


def _dropped(study: Study) -> str:
    dropped: dict[str, int] = study.clustered.counts.get("dropped") or {}
    wide, small = dropped.get("wide", 0), dropped.get("small", 0)
    if not wide + small:
        return ""
    limit = study.clustered.config.get("max_mean_distance")
    width = f" (mean distance to the centre over {limit:g})" if limit is not None else ""
    reasons = [f"{wide} too wide{width}"] * (wide > 0) + [f"{small} too small"] * (small > 0)
    return f" Left out: {', '.join(reasons)}."


def _steady(heads: Table) -> tuple[tuple[str, ...], int]:
    heads_by_name: dict[str, list[str]] = {}
    columns = ("layer", "head", "main cluster", "main name", "main share")
    for layer, head, cluster, name, share in zip(*map(heads.column, columns), strict=True):
        if cluster is not None and share >= STEADY:
            heads_by_name.setdefault(name, []).append(head_name(layer, head))
    ranked = sorted(heads_by_name.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return tuple(f"{name}: {_some(places)}" for name, places in ranked[:_NAMES]), sum(map(len, heads_by_name.values()))


def _next(study: Study, tables: dict[str, Table]) -> tuple[str, ...]:
    heads, locations = tables["heads"], tables["locations"]
    lines = []
    busiest = sorted(heads.rows, key=lambda row: (-row[7], row[:2]))
    if busiest and busiest[0][7] > 1:
        named = [f"{head_name(*row[:2])}\u00a0({row[7]})" for row in busiest[:5] if row[7] > 1]
        lines.append(f"Heads whose pattern depends most on the prompt, by distinct clusters: {', '.join(named)}.")
    share = np.full(study.layers, np.nan)
    for layer in range(study.layers):
        own = [row[6] for row in heads.rows if row[0] == layer]
        if own:
            share[layer] = np.mean(own)
    if study.layers > 1 and not np.isnan(share).all():
        least, most = int(np.nanargmin(share)), int(np.nanargmax(share))
        if share[most] > share[least]:
            lines.append(
                f"Layer {least} is the least understood ({share[least]:.0%} of its patterns are in a cluster), "
                f"layer {most} the most ({share[most]:.0%})."
            )
    unique = dict(zip(locations.header[1:], locations.rows[1][1:], strict=True))
    if len(unique) > 1:
        task = max(unique, key=lambda name: unique[name])
        if unique[task]:
            lines.append(
                f"The task with the most unique pattern locations is {task.replace('_', ' ')}: {unique[task]} that no "
                "other task has (Table 5)."
            )
    return tuple(lines)


def _some(places: list[str]) -> str:
    shown = ", ".join(places[:_HEADS])
    return shown if len(places) <= _HEADS else f"{shown} and {len(places) - _HEADS} more"


def _count(number: Any, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"
