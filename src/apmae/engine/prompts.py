"""The prompts stage, and previews of prompts. Torch is imported only if a model is asked."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apmae.artifacts import Stage, manifest_path, read_manifest, read_table, write_table
from apmae.config import CircuitsConfig, LMConfig, PromptsConfig
from apmae.corpus.source import Source, list_sources
from apmae.engine.stages import decisive, opened
from apmae.errors import ConfigError
from apmae.lm.declared import expect_outcome
from apmae.progress import Advance, progress
from apmae.prompts import own
from apmae.prompts.circuits import circuit_prompts
from apmae.prompts.counterfactuals import code_pairs
from apmae.prompts.draw import Ask, build_prompts, draw_prompts, shortfalls, with_outcomes
from apmae.prompts.files import from_table, read_prompts, to_table, write_jsonl
from apmae.prompts.journal import Journal, JournaledAsk
from apmae.prompts.languages import language_of
from apmae.prompts.prompt import Prompt
from apmae.report.preview import print_prompts

if TYPE_CHECKING:
    from apmae.lm.language_model import LM


def make_prompts(
    sources: Sequence[Source],
    out: Path,
    config: PromptsConfig,
    *,
    lm: "LM | LMConfig | None" = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The prompts stage: source files to one Parquet file.

    Args:
        sources: from ``engine.sources.parse_sources`` or ``corpus.parse.parse_source``.
        out: a ``.parquet`` file.
        config: tasks, numbers, outcomes.
        lm: decides outcomes; without a model, or with one that answers nothing (``LM.answers``), they stay unknown.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.
    """
    expect_parquet(out)
    lm = opened(lm) if lm else None
    inputs = {f"source-{number}": source.fingerprint() for number, source in enumerate(sources)}
    inputs |= {"lm": lm.fingerprint} if lm else {}
    with Stage.open(out, "prompts", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "prompts").counts
        prompts, counts = _draw(sources, config, lm, journal=stage)
        counts = {**counts, "short": shortfalls(prompts, config)}
        stage.write_tables({out.name: to_table(prompts)})
        return stage.finish(counts).counts


def make_circuits(
    out: Path,
    config: CircuitsConfig,
    lm: "LM | LMConfig",
    sources: Sequence[Source] = (),
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The prompts stage with circuits as sources.

    Args:
        out: a ``.parquet`` file.
        config: which circuits, numbers.
        lm: whose tokens the prompts are made for; also decides outcomes.
        sources: where circuits of code are drawn from.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.
    """
    expect_parquet(out)
    lm = opened(lm)
    inputs = {f"source-{number}": source.fingerprint() for number, source in enumerate(sources)}
    inputs |= {"lm": lm.fingerprint}
    with Stage.open(out, "prompts", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "prompts").counts
        rejected: dict[str, Counter[str]] = {}
        prompts = _draw_circuits(config, lm, sources, rejected, journal=stage)
        number = Counter((prompt.task, prompt.outcome) for prompt in prompts)
        counts = {name: {o: number[name, o] for o in ("correct", "incorrect")} for name in config.circuits}
        stage.write_tables({out.name: to_table(prompts)})
        reasons = {name: dict(sorted((+own).items())) for name, own in rejected.items()}
        return stage.finish({"prompts": counts, "rejected": reasons}).counts


def preview_prompts(
    sources: Sequence[Source], config: PromptsConfig, count: int, *, lm: "LM | LMConfig | None" = None
) -> None:
    """Print the first prompts that :func:`make_prompts` draws; nothing is written.

    Args:
        sources: as for :func:`make_prompts`.
        config: as for :func:`make_prompts`.
        count: how many to print.
        lm: as for :func:`make_prompts`.
    """
    # the first prompts come out the same, and the model is not asked about thousands to show a few
    few = config.model_copy(update={"per_task": min(config.per_task, 2 * count)})
    print_prompts(_draw(sources, few, opened(lm) if lm else None)[0][:count], count)


def preview_circuits(config: CircuitsConfig, lm: "LM | LMConfig", count: int, sources: Sequence[Source] = ()) -> None:
    """Print the first prompts that :func:`make_circuits` draws, and how many more there are; nothing is written."""
    print_prompts(_draw_circuits(config, opened(lm), sources, {}), count)


def preview_file(path: Path, count: int) -> None:
    """Print the first prompts of a file, and how many more there are."""
    print_prompts(load_prompts(path), count)


def own_prompts(path: Path, out: Path | None = None, *, shown: int = 0) -> int:
    """Read a file of prompts, JSONL or Parquet.

    Args:
        path: the file.
        out: where to write it, JSONL or Parquet by its suffix.
        shown: how many of the prompts to print.

    Returns:
        How many prompts there are.

    Raises:
        MalformedError: if it is not a file of prompts.
        ConfigError: if ``out`` is neither JSONL nor Parquet.
    """
    prompts = load_prompts(path)
    if out is not None:
        if out.suffix == ".jsonl":
            write_jsonl(out, prompts)
        elif out.suffix == ".parquet":
            write_table(out, to_table(prompts))
        else:
            raise ConfigError(
                f"expected --out to name a .parquet or .jsonl file, got {out}; for instance prompts.parquet"
            )
    if shown:
        print_prompts(prompts, shown)
    return len(prompts)


def load_prompts(path: Path) -> list[Prompt]:
    """Prompts of a stage, whose manifest is checked, or of any other JSONL or Parquet file."""
    if path.suffix == ".parquet" and manifest_path(path).is_file():
        read_manifest(path, "prompts")
        return from_table(read_table(path))
    return read_prompts(path)


def expect_prompts(path: Path) -> None:
    """Refuse what :func:`load_prompts` refuses. A stage's file may be long: only its manifest is checked."""
    if path.suffix == ".parquet" and manifest_path(path).is_file():
        read_manifest(path, "prompts")
    else:
        read_prompts(path)


def own_schema() -> str:
    """The JSON Schema of one line of a user's own prompts, as text."""
    return json.dumps(own.schema(), indent=2)


def _draw(
    sources: Sequence[Source],
    config: PromptsConfig,
    lm: "LM | None",
    *,
    journal: Journal | None = None,
) -> tuple[list[Prompt], dict[str, Any]]:
    files = list_sources(sources, suffixes=language_of(config.language).suffixes)
    if lm is None:
        return build_prompts(files, config)
    expect_outcome(config.outcome, lm.answers, lm.name)
    if not lm.answers:
        return build_prompts(files, config, tokenizer=lm.backend_tokenizer)
    with _asking(lm, journal) as (asked, advance):
        return draw_prompts(asked, files, config, rejected=Counter(), advance=advance)


def _draw_circuits(
    config: CircuitsConfig,
    lm: "LM",
    sources: Sequence[Source],
    rejected: dict[str, Counter[str]],
    *,
    journal: Journal | None = None,
) -> list[Prompt]:
    """The prompts of every circuit with their outcomes; counts what was not used of those from code, by circuit."""
    expect_answers(lm.answers, lm.name)
    tokenizer, room = lm.backend_tokenizer, config.length - (lm.bos is not None)
    files = list_sources(sources, suffixes=language_of(config.language).suffixes) if config.from_code else []
    made = {
        name: circuit_prompts(name, tokenizer, count=config.per_task, seed=config.seed, length=room)
        for name in config.circuits
        if name not in config.from_code
    }
    total = None if config.from_code else sum(map(len, made.values()))
    with _asking(lm, journal, total, unit="answers") as (asked, advance):
        for name in config.from_code:
            own = rejected.setdefault(name, Counter())
            made[name] = code_pairs(name, asked, files, config, rejected=own, advance=advance)
        prompts = [prompt for name in config.circuits for prompt in made[name]]
        return with_outcomes(asked, prompts, config.length, advance=advance)


@contextmanager
def _asking(
    lm: "LM", journal: Journal | None, total: int | None = None, unit: str = "candidates"
) -> Iterator[tuple[Ask, Advance]]:
    """A model to ask, and progress that counts what it was asked; what an interrupted run asked counts as done."""
    from apmae.lm.outcome import AskLM  # imports torch

    ask: Ask = AskLM(lm)
    again = 0
    if journal is not None:
        ask = JournaledAsk(ask, journal)
        again = ask.known
    with progress("ask the model", total, done=again, unit=unit) as shown:

        def advance(amount: int = 1, *, note: str = "", total: int | None = None) -> None:
            nonlocal again
            known = min(amount, again)
            again -= known
            shown(amount - known, note=note, total=total)

        yield ask, advance


def expect_answers(answers: bool, source: str) -> None:
    """Refuse circuits of a model that answers nothing.

    Raises:
        ConfigError: if it does not.
    """
    if not answers:
        raise ConfigError(
            f"expected a model that completes prompts, for circuits, {source} is an encoder without a head for masked "
            "tokens; draw prompts from source files"
        )


def expect_parquet(out: Path) -> None:
    """Refuse an output of the prompts stage that is not Parquet.

    Raises:
        ConfigError: if its suffix is not ``.parquet``.
    """
    if out.suffix != ".parquet":
        raise ConfigError(f"expected --out to name a .parquet file, got {out}; for instance prompts.parquet")
