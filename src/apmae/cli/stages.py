"""The stages after prompts: ``train``, ``evaluate``, ``encode``, ``cluster``, ``report``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from apmae.cli.options import (
    DeviceOption,
    DtypeOption,
    EncoderOption,
    InfillOption,
    LMOption,
    OverwriteOption,
    SeedOption,
    SetOption,
    load,
    say,
    settings,
)
from apmae.cli.prompts import say_short
from apmae.errors import ConfigError


def train(
    out: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts to train on, Parquet or JSONL.")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Or sources to draw the recipe's prompts from: folder, zip, tar, 'bundled'; repeatable."),
    ] = None,
    patterns: Annotated[
        list[Path] | None,
        typer.Option(help="Or files of stored patterns (Patterns.save), without a model."),
    ] = None,
    lm: Annotated[str | None, typer.Option("--lm", help="As for encode; by default the recipe's.")] = None,
    recipe: Annotated[str, typer.Option(help="A name that apmae recipes lists.")] = "nano",
    language: Annotated[str, typer.Option(help="Of the corpus, as for apmae prompts.")] = "java",
    per_task: Annotated[int | None, typer.Option(help="Prompts of the corpus; by default the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; by default the recipe's.")] = None,
    seed: SeedOption = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; auto spreads the LM; by default the recipe's.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="The LM's: float32, bfloat16, float16; by default the recipe's.")
    ] = None,
    infill: InfillOption = "auto",
    track: Annotated[
        str | None, typer.Option(help="Also send metrics to trackio, wandb or another tracker that is installed.")
    ] = None,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Train an AP-MAE on the patterns that a model makes. A killed run goes on from its checkpoint.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m apmae train ..., with a folder that all of them see.
    """
    from apmae.config import PromptsConfig, TrainConfig, parse
    from apmae.recipes import recipe as study_of
    from apmae.recipes import train_settings

    given = [name for name, value in (("prompts", prompts), ("corpus", corpus), ("patterns", patterns)) if value]
    if len(given) != 1:
        raise ConfigError(f"expected one of --prompts, --corpus and --patterns, got {' and '.join(given) or 'none'}")
    study = study_of(recipe)
    changes = {"seed": seed, **({} if steps is None else {"steps": steps}), **settings(set_)}
    config = parse(TrainConfig, train_settings(recipe, changes), "train")
    if patterns and (lm or dtype):
        raise ConfigError("expected no --lm and no --dtype with --patterns, which need no model; leave them out")
    drawn = None
    if corpus:
        values = (study.train_prompts or PromptsConfig()).model_dump()
        values |= {"language": language, "seed": config.seed, "length": config.context or config.model.pattern_size}
        values |= {} if config.outcome == "correct" else {"outcome": "any"}
        values |= {} if per_task is None else {"per_task": per_task}
        drawn = parse(PromptsConfig, values, "--corpus")
    from apmae.engine import train as engine
    from apmae.engine.sources import parse_sources
    from apmae.train.processes import device_of, start

    wanted = device or study.device
    accelerator = start(wanted, track=track, folder=out.with_name(f"{out.name}-tracker"))
    place = device_of(accelerator, wanted)
    common = {"overwrite": overwrite, "accelerator": accelerator}
    if patterns:
        folder = engine.train_on_patterns(patterns, out, config, device=place, **common)
    else:
        spread = wanted == "auto" and accelerator.num_processes == 1
        model = load(lm or study.lm, "auto" if spread else place, dtype or study.dtype, infill)
        if drawn is not None:
            prompts = out.with_name(f"{out.name}-prompts.parquet")
            sources = parse_sources(corpus or ()).expect_files()
            counts = engine.draw_training_prompts(sources, prompts, drawn, model, **common)
            if accelerator.is_main_process:
                number = sum(sum(found.values()) for found in counts["prompts"].values())
                say(f"{number} prompts of {counts['files']} files in {prompts}")
                say_short(counts, drawn)
        assert prompts is not None, "one of three was given"
        folder = engine.train_encoder(model, prompts, out, config, **common)
    if accelerator.is_main_process:
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        picture = folder / "reconstruction.png"
        say(f"encoder in {folder}: loss {last['loss']:.5f} after {config.steps} steps; see {picture}")
    accelerator.end_training()


def encode(
    prompts: Annotated[Path, typer.Option(help="Prompts, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the embeddings.")],
    lm: LMOption = "bundled",
    encoder: EncoderOption = "bundled",
    heads: Annotated[str, typer.Option(help="'all', or a share of each layer's heads such as 0.25.")] = "all",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Run the model, capture its heads and encode every pattern. A killed run goes on after its last shard."""
    from apmae.config import EncodeConfig, parse

    values = {"heads": heads if heads == "all" else _number(heads, "--heads"), "seed": seed, **settings(set_)}
    config = parse(EncodeConfig, values, "encode")
    from apmae.engine import local

    counts = local.encode(load(lm, device, dtype, infill), encoder, prompts, out, config, overwrite=overwrite)
    say(f"{counts['patterns']} patterns of {counts['prompts']} prompts in {out}")


def evaluate(
    prompts: Annotated[Path, typer.Option(help="Prompts that no encoder was trained on, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the evaluation.")],
    lm: Annotated[
        list[str] | None, typer.Option("--lm", help="As for encode, 'bundled' by default; repeat it for several.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="As for encode, 'bundled' by default; repeat it for several.")
    ] = None,
    heads: Annotated[str, typer.Option(help="'all', or a share of each layer's heads.")] = "0.25",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Measure every encoder's loss on every language model's patterns. A killed run goes on after its last shard."""
    from apmae.config import EvaluateConfig, parse

    values = {"heads": heads if heads == "all" else _number(heads, "--heads"), "seed": seed, **settings(set_)}
    config = parse(EvaluateConfig, values, "evaluate")
    from apmae.engine.evaluate import cross_evaluate
    from apmae.report.terminal import print_evaluation

    found = cross_evaluate(
        lm or ["bundled"],
        encoder or ["bundled"],
        prompts,
        out,
        config,
        load=lambda source: load(source, device, dtype, infill),
        overwrite=overwrite,
    )
    print_evaluation(found)
    say(f"evaluation in {out}; see {out / 'cross_evaluation.png'}")


def cluster(
    embeddings: Annotated[Path, typer.Argument(help="Folder that apmae encode made.")],
    out: Annotated[Path, typer.Option(help="Folder of the atlas.")],
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Reduce and cluster embeddings, and name the clusters."""
    from apmae.config import AtlasConfig, parse

    config = parse(AtlasConfig, {"seed": seed, **settings(set_)}, "cluster")
    from apmae.engine.local import fit_atlas

    counts = fit_atlas(embeddings, out, config, overwrite=overwrite)
    share = counts["clustered"] / max(counts["patterns"], 1)
    say(f"{counts['clusters']} clusters hold {share:.1%} of {counts['patterns']} patterns; atlas in {out}")


def report(study: Annotated[Path, typer.Argument(help="Folder with embeddings/ and atlas/.")]) -> None:
    """Write the tables, pictures and page of a study."""
    from apmae.report.page import write_report
    from apmae.report.terminal import print_study

    page = write_report(study)
    print_study(study, page)


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"expected 'all' or a share in (0, 1] for {option}, got {text!r}") from None
