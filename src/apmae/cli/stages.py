"""The stages after prompts: ``train``, ``evaluate``, ``encode``, ``dimensions``, ``cluster``, ``locations``,
``answers``, ``report``.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import (
    EncoderOption,
    LMOption,
    OverwriteOption,
    SeedOption,
    SetOption,
    lm_config,
    loads_lm,
    say,
    settings,
)
from apmae.errors import ConfigError


@loads_lm
def train(
    out: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts to train on, Parquet or JSONL.")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Or sources to draw prompts from during training: folder, zip, tar, 'bundled'; repeatable."),
    ] = None,
    patterns: Annotated[
        list[Path] | None,
        typer.Option(help="Or files of stored patterns (Patterns.save), which need no model; repeatable."),
    ] = None,
    lm: Annotated[
        str | None, typer.Option("--lm", help="As for encode; by default the recipe's, like --device and --dtype.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A name that apmae recipes lists.")] = "nano",
    language: Annotated[str, typer.Option(help="Language of the corpus, as for apmae prompts.")] = "java",
    per_task: Annotated[
        int | None, typer.Option(help="Prompts per task in an epoch of the corpus; by default the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; by default the recipe's.")] = None,
    seed: SeedOption = 0,
    track: Annotated[
        str | None, typer.Option(help="Also send metrics to trackio, wandb or another installed tracker.")
    ] = None,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Train an AP-MAE on a model's patterns. A killed run resumes from its checkpoint.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m apmae train ..., with a folder that all of them share.
    """
    from apmae.engine.settings import training
    from apmae.engine.sources import parse_sources

    given = [name for name, value in (("prompts", prompts), ("corpus", corpus), ("patterns", patterns)) if value]
    if len(given) != 1:
        raise ConfigError(f"expected one of --prompts, --corpus and --patterns, got {' and '.join(given) or 'none'}")
    unused = ["--lm"] * (lm is not None) + [f"--{name}" for name in loading if name != "device"]
    if patterns and unused:
        raise ConfigError(f"expected no {' and no '.join(unused)} with --patterns, which need no model; leave it out")
    changes = {"seed": seed, **({} if steps is None else {"steps": steps}), **settings(set_)}
    model = loading if lm is None else {"source": lm, **loading}
    asked = training(recipe, changes, model, language=language if corpus else None, per_task=per_task)
    data: dict[str, Any] = {
        "prompts": prompts,
        "corpus": parse_sources(corpus).expect_files() if corpus else (),
        "patterns": patterns or (),
    }
    from apmae.engine.checks import expect_training

    expect_training(asked, out, **data, track=track, overwrite=overwrite)
    from apmae.engine.train import run_training

    trained = run_training(asked, out, **data, track=track, overwrite=overwrite)
    if trained is not None:
        picture = out / "reconstruction.png"
        say(f"encoder in {out}: loss {trained.loss:.5f} after {asked.config.steps} steps; see {picture}")
        counts = trained.counts
        if corpus:
            left_out = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items())
            answered = f", {counts['correct']} answered correctly" if "correct" in counts else ""
            say(
                f"  {counts['asked']} prompts asked, from {counts['files']} files{answered}"
                f"{f'; not used: {left_out}' if left_out else ''}"
            )


@loads_lm
def encode(
    prompts: Annotated[Path, typer.Option(help="Prompts, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the embeddings.")],
    lm: LMOption = "bundled",
    encoder: EncoderOption = "bundled",
    heads: Annotated[
        str | None, typer.Option(help="'all', the default, or a share of each layer's heads such as 0.25.")
    ] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Run the model, capture its heads and encode every pattern. A killed run resumes after its last shard."""
    from apmae.config import EncodeConfig, parse

    values = {**_heads(heads), "seed": seed, **settings(set_)}
    config = parse(EncodeConfig, values, "encode")
    model = lm_config(lm, loading)
    from apmae.engine.checks import expect_encode

    expect_encode(model, encoder, prompts, out, config, overwrite=overwrite)
    from apmae.engine import local

    counts = local.encode(model, encoder, prompts, out, config, overwrite=overwrite)
    say(f"{counts['patterns']} patterns of {counts['prompts']} prompts in {out}")


@loads_lm
def evaluate(
    prompts: Annotated[Path, typer.Option(help="Prompts that no encoder was trained on, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the evaluation.")],
    lm: Annotated[
        list[str] | None, typer.Option("--lm", help="As for encode, 'bundled' by default; repeatable.")
    ] = None,
    encoder: Annotated[list[str] | None, typer.Option(help="As for encode, 'bundled' by default; repeatable.")] = None,
    heads: Annotated[str | None, typer.Option(help="'all', or a share of each layer's heads; by default 0.25.")] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Measure every encoder's loss on every language model's patterns. A killed run resumes after its last shard."""
    from apmae.config import EvaluateConfig, parse

    values = {**_heads(heads), "seed": seed, **settings(set_)}
    config = parse(EvaluateConfig, values, "evaluate")
    models = [lm_config(source, loading) for source in lm or ["bundled"]]
    encoders = encoder or ["bundled"]
    from apmae.engine.checks import expect_evaluate

    expect_evaluate(models, encoders, prompts, out, config, overwrite=overwrite)
    from apmae.engine.evaluate import cross_evaluate, print_evaluation

    print_evaluation(cross_evaluate(models, encoders, prompts, out, config, overwrite=overwrite))
    say(f"evaluation in {out}; see {out / 'cross_evaluation.png'}")


def cluster(
    embeddings: Annotated[Path, typer.Argument(help="Folder that apmae encode made.")],
    out: Annotated[Path, typer.Option(help="Folder of the atlas.")],
    preset: Annotated[str, typer.Option(help="How clusters are found: stable, paper or per_head.")] = "stable",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Reduce and cluster embeddings, and name the clusters."""
    from apmae.config import AtlasConfig, parse, preset_of

    config = parse(AtlasConfig, {**preset_of(preset), "seed": seed, **settings(set_)}, "cluster")
    from apmae.engine.checks import expect_cluster

    expect_cluster(embeddings, out, config, overwrite=overwrite)
    from apmae.engine.local import fit_atlas

    counts = fit_atlas(embeddings, out, config, overwrite=overwrite)
    share = counts["clustered"] / max(counts["patterns"], 1)
    structured = counts["patterns"] - counts["unstructured"]
    some = f", looked for in {counts['fitted']} of {structured}" if counts["fitted"] < structured else ""
    say(
        f"{counts['clusters']} clusters ({counts['unstable']} unstable) hold {share:.1%} of {counts['patterns']} "
        f"patterns{some}; atlas in {out}"
    )


def dimensions(
    embeddings: Annotated[Path, typer.Argument(help="Folder that apmae encode made.")],
    out: Annotated[Path, typer.Option(help="Picture, PNG; the numbers go into a Parquet file beside it.")],
    dimensions: Annotated[str, typer.Option(help="Numbers of dimensions to compare.")] = "2,3,4,5,6,8,10",
    neighbors: Annotated[int, typer.Option(help="Nearest neighbours that should stay so.")] = 1000,
    seeds: Annotated[int, typer.Option(help="How often patterns are drawn and UMAP runs.")] = 3,
    points: Annotated[int, typer.Option(help="Patterns to reduce, drawn among those with structure.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The first seed; the others follow it.")] = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Measure how far UMAP can be trusted, by its number of dimensions. A killed run resumes after its last fit."""
    from apmae.config import DimensionsConfig, parse

    values = {
        "dimensions": [number.strip() for number in dimensions.split(",")],
        "neighbors": neighbors,
        "seeds": seeds,
        "points": points,
        "seed": seed,
        **settings(set_),
    }
    config = parse(DimensionsConfig, values, "dimensions")
    from apmae.engine.checks import expect_dimensions

    expect_dimensions(embeddings, out, config, overwrite=overwrite)
    from apmae.engine.dimensions import measure_dimensions, print_dimensions

    print_dimensions(measure_dimensions(embeddings, out, config, overwrite=overwrite))
    say(f"picture in {out}, numbers in {out.with_suffix('.parquet')}")


def locations(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="A study, or a folder of tags (apmae tag --prompts); or several of tags, such as languages, to set "
            "side by side."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the tables of several folders of tags.")] = None,
    permutations: Annotated[
        int, typer.Option(help="How often outcomes are shuffled within their task, at least.")
    ] = 1000,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Count which patterns occur in which tasks and outcomes, or in which languages, against chance."""
    from apmae.config import LocationsConfig, parse

    values = {"permutations": permutations, "seed": seed}
    config = parse(LocationsConfig, values, "locations")
    if len(source) > 1 or out is not None:
        from apmae.engine.head_checks import expect_corpora

        expect_corpora(source, out, config, overwrite=overwrite)
        from apmae.engine.corpora import locate_corpora, print_corpora

        assert out is not None, "it was checked"
        print_corpora(locate_corpora(source, out, config, overwrite=overwrite))
        say(f"tables in {out}")
        return
    (folder,) = source
    from apmae.engine.checks import expect_locations

    expect_locations(folder, config, overwrite=overwrite)
    from apmae.engine.locations import locate, print_locations

    print_locations(locate(folder, config, overwrite=overwrite))
    say(f"tables in {folder / 'locations'}")


@loads_lm
def answers(
    prompts: Annotated[Path, typer.Option(help="Prompts, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables; STUDY/answers for apmae predict STUDY.")],
    lm: LMOption = "bundled",
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Read every head where the model answers: last rows, copies, flow, logit attribution, hidden states.

    A killed run resumes after its last shard.
    """
    from apmae.config import AnswersConfig, parse

    config = parse(AnswersConfig, settings(set_), "answers")
    model = lm_config(lm, loading)
    from apmae.engine.subjects import expect_reading

    expect_reading(model, prompts, out, config, overwrite=overwrite)
    from apmae.engine.answers import read_heads_of_answers

    counts = read_heads_of_answers(model, prompts, out, config, overwrite=overwrite)
    many = f"{counts['prompts']} prompt{'' if counts['prompts'] == 1 else 's'}"
    say(f"{counts['heads_read']} heads of {many}, {counts['correct']} answered correctly, in {out}")
    missing = sum(counts["heads_by_layer"]) - counts["attribution"]
    if missing:
        lacking = "1 head has" if missing == 1 else f"{missing} heads have"
        say(f"  {lacking} no logit attribution: {next(iter(counts['without'].values()))}")


def report(study: Annotated[Path, typer.Argument(help="Folder with embeddings/ and atlas/.")]) -> None:
    """Write the tables, pictures and page of a study."""
    from apmae.engine.checks import expect_report

    expect_report(study)
    from apmae.engine.report import print_report, write_report

    print_report(study, write_report(study))


def _heads(text: str | None) -> dict[str, Any]:
    """``--heads`` as a setting, if it was given; it may be set by ``--set capture=...`` instead."""
    if text is None:
        return {}
    try:
        return {"heads": text if text == "all" else float(text)}
    except ValueError:
        raise ConfigError(f"expected 'all' or a share in (0, 1] for --heads, got {text!r}") from None
