"""The top stage: the prompts of each head with the largest values and some of every tenth, with attended tokens."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from apmae.analyze.top import Chosen, prompts_of, top_prompts
from apmae.artifacts import (
    Records,
    Shard,
    Stage,
    cut,
    fingerprint,
    is_shard,
    missing,
    read_table,
    run_shards,
    write_tables,
)
from apmae.config import Config, LMConfig, TopConfig
from apmae.engine.chosen import print_chosen
from apmae.engine.head_checks import expect_study_lm, study_prompts, top_folder
from apmae.engine.prompts import load_prompts
from apmae.engine.sources import files_to_tag
from apmae.engine.stages import decisive, opened
from apmae.errors import ConfigError
from apmae.lm.language_model import LM
from apmae.lm.outcome import read, window_of
from apmae.lm.tap import capture
from apmae.patterns.attended import attended
from apmae.patterns.reach import row_labels
from apmae.progress import Advance, progress
from apmae.prompts.each_file import prompts_of_files
from apmae.prompts.prompt import Prompt
from apmae.report.top_pages import page_names, top_pages
from apmae.schema import ATTENDED, ATTENDED_TABLES, TOP_FILE, TOP_HEADS_FILE, TOP_TEXTS
from apmae.study.placed import Placed
from apmae.study.tags import open_placed

_INDEX = "index.html"
_OF_LM = ("dtype", "infill")
"""Settings of a model that decide its patterns."""


class Top(NamedTuple):
    """What the top stage wrote."""

    chosen: Chosen
    attended: pa.Table
    """``schema.ATTENDED``."""
    texts: pa.Table
    """``schema.TOP_TEXTS``."""
    page: Path


def make_top(
    lm: LM | LMConfig,
    study: Path,
    config: TopConfig | None = None,
    *,
    out: Path | None = None,
    prompts: Path | None = None,
    values: Path | None = None,
    overwrite: bool = False,
) -> Top:
    """Choose prompts as :func:`apmae.engine.chosen.choose_top` does, then run the model to see what is attended to.

    Writes ``top.parquet`` (``schema.TOP``), ``heads.parquet`` (``schema.TOP_HEADS``), ``attended-NNNNN.parquet``
    (``schema.ATTENDED``), ``texts-NNNNN.parquet`` (``schema.TOP_TEXTS``), ``index.html`` and a page for each head.

    Args:
        lm: the study's language model.
        study: as for :func:`apmae.engine.chosen.choose_top`.
        config: by what, which heads, how many.
        out: the folder; by default ``top/`` and the name of the value, in the study.
        prompts: the study's prompts, if they are not in its folder; of tags, what was tagged.
        values: as for :func:`apmae.engine.chosen.choose_top`, on disk.
        overwrite: replace an artifact made with other settings or from something else.

    Raises:
        ConfigError: as for :func:`apmae.engine.chosen.choose_top`, or if the model or the prompts are not the study's.
        ArtifactError: if the study is unfinished or damaged, or its prompts are nowhere.
    """
    config, of = config or TopConfig(), open_placed(study)
    path = study_prompts(of, prompts)
    out = out or top_folder(of.folder, config.by)
    lm = opened(lm)
    expect_study_lm(of, lm.fingerprint, lm.source)
    _expect_settings(of, lm)
    inputs = {**of.made_from, "lm": lm.fingerprint, "prompts": of.encoded.inputs["prompts"]}
    inputs |= {} if values is None else {"values": fingerprint(values)}
    with Stage.open(out, "top", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            if not stage.has(TOP_FILE, TOP_HEADS_FILE):
                chosen = top_prompts(of, config, values)
                stage.write_tables({TOP_FILE: chosen.rows, TOP_HEADS_FILE: chosen.heads})
            rows = read_table(stage.root / TOP_FILE)
            numbers = prompts_of(rows)
            shards = cut(len(numbers), config.shard_prompts, ATTENDED_TABLES)
            done = len(numbers) - sum(map(len, missing(stage, shards)))
            with progress("top", len(numbers), done=done, unit="prompts") as advance:
                work = partial(
                    attend_shard,
                    lm=lm,
                    study=of,
                    prompts=_prompts(path, of, lm),
                    rows=rows,
                    config=config,
                    root=stage.staging,
                    advance=advance,
                )
                run_shards(stage, shards, work)
            if not stage.has(_INDEX, *page_names(rows)):
                made = _read(stage.root, stage.files)
                pages = top_pages(of, config.by, made.chosen, made.attended, made.texts)
                stage.write_files({name: page for name, page in pages.items() if not stage.has(name)})
            stage.finish({"prompts": len(numbers), "patterns": rows.num_rows, "lm": lm.name})
    return _read(out, stage.files)


def attend_shard(
    shard: Shard,
    *,
    lm: LM,
    study: Placed,
    prompts: Sequence[Prompt],
    rows: pa.Table,
    config: TopConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Find what the chosen heads attend to on the prompts of one shard.

    Args:
        shard: which of the chosen prompts; its files are those of ``schema.ATTENDED_TABLES``.
        lm: the language model.
        study: where the patterns were encoded, which says how prompts become windows.
        prompts: all prompts of the study, in the order that numbers them.
        rows: ``schema.TOP``.
        config: how many pairs, prompts per forward.
        root: the folder for the files.
        advance: called with the prompts of each batch.

    Returns:
        The records of the files.
    """
    length, size = int(study.encoded.counts["context"]), int(study.encoded.counts["pattern_size"])
    limit: dict[str, Any] = {study.encoded.config["capture"]["long"]: size} if length > size else {}
    known = {row["prompt"]: row for row in study.prompts.to_pylist()}
    own = prompts_of(rows)[shard.first : shard.stop]
    sinks: dict[int, dict[tuple[int, int], list[int]]] = {}
    for prompt, layer, head, keys in zip(
        *(rows[name].to_pylist() for name in ("prompt", "layer", "head", "sinks")), strict=True
    ):
        sinks.setdefault(prompt, {})[layer, head] = keys
    found, texts = [], []
    for first in range(0, len(own), config.batch):
        numbers = own[first : first + config.batch]
        windows = [window_of(lm, prompts[number], length) for number in numbers]
        heads = sorted({place for number in numbers for place in sinks[number]})
        with capture(lm.model, heads=heads, dtype=torch.float16, **limit) as tap:
            read(lm, windows)
        patterns = tap.patterns
        places = list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))
        wanted = [i for i, (at, *place) in enumerate(places) if tuple(place) in sinks[numbers[at]]]
        chosen = [places[i] for i in wanted]
        looked = attended(
            patterns[wanted], [sinks[numbers[at]][layer, head] for at, layer, head in chosen], config.pairs
        )
        counts = [min(size, len(windows[at].ids)) for at, *_ in chosen]
        received = [values[:count] for values, count in zip(looked.received, counts, strict=True)]
        columns: dict[str, Any] = {"received": received}
        for which, pairs in (("", looked.pairs), ("away_", looked.away)):
            kept = pairs.query >= 0
            for part, values in (("queries", pairs.query), ("keys", pairs.key), ("weights", pairs.weight)):
                columns[which + part] = [row[there] for row, there in zip(values, kept, strict=True)]
        columns |= {"layer": [layer for _, layer, _ in chosen], "head": [head for *_, head in chosen]}
        columns["prompt"] = [numbers[at] for at, *_ in chosen]
        found.append(
            pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in ATTENDED], schema=ATTENDED)
        )
        for number, window in zip(numbers, windows, strict=True):
            asked, count = known[number], len(window.ids)
            reach = str(study.encoded.config["capture"]["long"]) if count > size else "whole"
            texts.append(
                {name: asked[name] for name in ("prompt", "id", "task", "path", "expected", "predicted", "outcome")}
                | {"line": prompts[number].line, "texts": row_labels(count, min(count, size), reach, window.tokens)}
            )
        if advance:
            advance(len(numbers), note=f"{len(chosen)} patterns")
    tables = (pa.concat_tables(found), pa.Table.from_pylist(texts, schema=TOP_TEXTS))
    return write_tables(root, dict(zip(shard.files, tables, strict=True)))


def print_made(study: Path, config: TopConfig, made: Top) -> None:
    """Print the prompts of each head, with what it attends to.

    Args:
        study: its folder.
        config: by what prompts were chosen.
        made: from :func:`make_top`.
    """
    print_chosen(study, config, made.chosen, made.attended, made.texts)


def _prompts(path: Path, study: Placed, lm: LM) -> list[Prompt]:
    """The prompts of a study or of tags, in the order that numbers them; of source files, those that tags drew."""
    source = files_to_tag(path)
    if source is None:
        return load_prompts(path)
    length, seed = int(study.encoded.counts["context"]), int(study.encoded.config["seed"])
    return prompts_of_files(source, lm.backend_tokenizer, length=length, seed=seed, rejected=Counter())


def _expect_settings(study: Placed, lm: LM) -> None:
    """Refuse a model that runs in another precision, or sees prompts in another way, than it did for the study."""
    before, now = study.encoded.config, decisive(Config(), lm)
    changed = [f"{name} {before[name]!r}, got {now[name]!r}" for name in _OF_LM if before.get(name) != now[name]]
    if changed:
        option = f"--{changed[0].split()[0]}"
        raise ConfigError(
            f"expected the model as {study.folder} ran it, with {'; '.join(changed)}; give {option} as then"
        )


def _read(root: Path, names: Sequence[str]) -> Top:
    """The tables that a stage has written."""
    attended_rows, texts = (
        pa.concat_tables([read_table(root / name) for name in sorted(names) if is_shard(name, table)])
        for table in ATTENDED_TABLES
    )
    return Top(
        Chosen(read_table(root / TOP_FILE), read_table(root / TOP_HEADS_FILE)), attended_rows, texts, root / _INDEX
    )
