"""``circuit``: which heads carry a task, by prompts and their counterfactuals."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SeedOption, SetOption, loads_lm, say, settings


@loads_lm
def circuit(
    study: Annotated[
        Path | None, typer.Argument(help="A study whose prompts have counterfactuals; or give --prompts and --out.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts with counterfactuals, Parquet or JSONL (apmae prompts circuit:NAME).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; by default STUDY/circuit.")] = None,
    lm: Annotated[
        str | None, typer.Option("--lm", help="As for encode; by default the study's, or else 'bundled'.")
    ] = None,
    exact: Annotated[
        str, typer.Option(help="Heads to patch one by one: 'shortlist', or 'all' to see how good the filters are.")
    ] = "shortlist",
    head: Annotated[list[str] | None, typer.Option(help="Or these alone, as LAYER.HEAD; repeatable.")] = None,
    filter_: Annotated[
        str, typer.Option("--filter", help="What makes the shortlist: attribution, flow, last_row, tags or random.")
    ] = "attribution",
    share: Annotated[float, typer.Option(help="Share of the heads in the shortlist.")] = 0.22,
    edges: Annotated[int, typer.Option(help="Heads among which edges are measured; 0 for none.")] = 0,
    atlas: Annotated[
        str | None, typer.Option(help="Atlas of this model, or 'bundled', for the filter that compares tags.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="The encoder that the atlas was fitted with.")] = "bundled",
    json: Annotated[Path | None, typer.Option(help="Also write the tables as JSON.")] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Find the heads that carry a task, by patching what they write on counterfactual prompts.

    A killed run resumes after its last shard.
    """
    from apmae.config import PatchingConfig, parse
    from apmae.engine.circuit_checks import circuit_lm, circuit_task, expect_circuit, parse_exact

    values = {
        "exact": parse_exact(exact, head or ()),
        "filter": filter_,
        "share": share,
        "edge_heads": edges,
        "seed": seed,
        **settings(set_),
    }
    config = parse(PatchingConfig, values, "circuit")
    model = circuit_lm(study, lm, loading)
    task, tags = circuit_task(study, prompts, out, model), None if atlas is None else (encoder, atlas)
    expect_circuit(model, task, config, tags, overwrite=overwrite)
    if task.note:
        say(task.note)
    from apmae.engine.circuit import find_circuit, print_circuit

    found = find_circuit(model, task.prompts, task.out, config, tags=tags, overwrite=overwrite, json=json)
    print_circuit(found, task.out)
    say(f"circuit in {task.out}; see {task.out / 'circuit.png'}")
