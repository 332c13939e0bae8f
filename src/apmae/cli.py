"""The command line: one command a stage, each a shim from options to ``engine.local``. Heavy imports wait."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from apmae.errors import ApmaeError, ConfigError, MalformedError

app = typer.Typer(
    name="apmae",
    help="Find, name and tag the attention patterns of a language model's heads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

LMOption = Annotated[str, typer.Option("--lm", help="Folder or hub id of a transformers model, or 'bundled'.")]
EncoderOption = Annotated[str, typer.Option(help="Folder or hub id of an AP-MAE, or 'bundled'.")]
AtlasOption = Annotated[str, typer.Option(help="Folder of an atlas, or 'bundled'.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]
DeviceOption = Annotated[
    str, typer.Option(help="Where models run: cpu, cuda, cuda:1; auto spreads the language model.")
]
DtypeOption = Annotated[str, typer.Option(help="Precision of the language model: float32, bfloat16, float16.")]
InfillOption = Annotated[
    str, typer.Option(help="How it sees right context: auto, none, a family, or a template with {prefix} and {suffix}.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an artifact made from something else.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the stage, for instance mask_ratio=0.75."),
]


_CIRCUIT = "circuit:"
"""What a source of prompts begins with that is a classic circuit, not files."""


@app.command(rich_help_panel="Start here")
def demo(
    out: Annotated[Path, typer.Option(help="The study's folder.")] = Path("demo-study"),
    train: Annotated[
        bool, typer.Option("--train", help="Train the encoder now instead of taking the bundled one.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Discover the patterns of the bundled model on the bundled Java, and write a report of them."""
    from apmae import recipes

    _study(recipes.demo(out, train=train, seed=seed), overwrite)


@app.command(rich_help_panel="Start here")
def run(
    study: Annotated[Path, typer.Argument(help="STUDY.yaml: the fields of StudyConfig (docs/pipeline.md).")],
    overwrite: OverwriteOption = False,
) -> None:
    """Run every stage of a study described in one file."""
    import yaml

    from apmae.config import StudyConfig, parse
    from apmae.recipes import study_settings

    try:
        values = yaml.safe_load(study.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected a study file at {study}: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected YAML in {study}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected fields of a study in {study}, got {type(values).__name__}; see docs/pipeline.md")
    _study(parse(StudyConfig, {"out": str(study.with_suffix("")), **study_settings(values)}, str(study)), overwrite)


@app.command(rich_help_panel="Stages")
def prompts(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files, zips or tars of source code, or 'bundled'; or one file of prompts; or circuits, "
            "for instance circuit:ioi."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    language: Annotated[
        str, typer.Option(help="Of the sources: java, python, cpp, javascript, typescript, go, rust, or text.")
    ] = "java",
    per_task: Annotated[int, typer.Option(help="Prompts a task.")] = 100,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; 'all' for those of the language.")] = "all",
    lm: Annotated[str | None, typer.Option("--lm", help="Ask this model for each prompt's outcome.")] = None,
    outcome: Annotated[str | None, typer.Option(help="With --lm: balanced (default), correct, or any.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first prompts as a person reads them; needs no --out.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --preview: how many to show.")] = 5,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of your own prompts.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Build completion prompts from source files or of classic circuits; look at them, or at your own."""
    if schema:
        from apmae.prompts import own

        _say(json.dumps(own.schema(), indent=2))
        return
    if not sources:
        raise ConfigError("expected sources to draw prompts from, got none; give a folder, a file or 'bundled'")
    if out is None and not preview:
        raise ConfigError("expected --out to write prompts to, or --preview to look at some, got neither; give one")
    from apmae.config import CircuitsConfig, PromptsConfig, parse

    if any(source.startswith(_CIRCUIT) for source in sources):
        given = {"--language": language != "java", "--tasks": tasks != "all", "--outcome": outcome is not None}
        circuits = {"circuits": _circuits(sources, given), "per_task": per_task, "seed": seed, **_settings(set_)}
        config = parse(CircuitsConfig, circuits, "prompts")
        if lm is None:
            raise ConfigError("expected --lm MODEL with circuits: their prompts are made for a model's tokens")
        _circuit_prompts(config, _lm(lm, device, dtype, infill), out, count if preview else 0, overwrite)
        return
    if len(sources) == 1 and Path(sources[0]).suffix in (".jsonl", ".parquet"):
        _own_prompts(Path(sources[0]), out, count if preview else 0, asked=lm is not None)
        return
    values: dict[str, Any] = {
        "language": language,
        "per_task": per_task,
        **({} if tasks == "all" else {"tasks": tuple(task.strip() for task in tasks.split(","))}),
        "outcome": outcome or ("balanced" if lm else "any"),
        "seed": seed,
        **_settings(set_),
    }
    config = parse(PromptsConfig, values, "prompts")
    from apmae.engine import local

    model = _lm(lm, device, dtype, infill) if lm else None
    if out is None:
        _preview(local.preview_prompts(sources, config, lm=model), count)
        return
    counts = local.make_prompts(sources, out, config, lm=model, overwrite=overwrite)
    if preview:
        _preview(local.load_prompts(out), count)
    _say(f"{sum(sum(found.values()) for found in counts['prompts'].values())} prompts in {out}")
    for line in counts["short"]:
        _say(f"  short: {line}")
    if counts["rejected"]:
        _say("  not used: " + ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items()))


def _own_prompts(path: Path, out: Path | None, shown: int, *, asked: bool) -> None:
    if asked:
        raise ConfigError(f"expected sources with --lm, got the prompts {path}; encode asks the model about those")
    from apmae.engine import local

    found = local.load_prompts(path) if out is None else local.convert_prompts(path, out)
    if shown:
        _preview(found, shown)
    if out is not None:
        _say(f"{len(found)} prompts in {out}")


def _circuits(sources: list[str], given: dict[str, bool]) -> tuple[str, ...]:
    """Names of circuits, where they are all there is."""
    files = [source for source in sources if not source.startswith(_CIRCUIT)]
    if files:
        raise ConfigError(f"expected circuits only, got {files[0]} as well: make two files of prompts")
    for option in (option for option, is_given in given.items() if is_given):
        raise ConfigError(f"expected no {option} with circuits, which bring their own; leave it out")
    return tuple(source.removeprefix(_CIRCUIT) for source in sources)


def _circuit_prompts(config: Any, lm: Any, out: Path | None, shown: int, overwrite: bool) -> None:
    from apmae.engine import local

    if out is None:
        _preview(local.draw_circuits(config, lm), shown)
        return
    counts = local.make_circuits(out, config, lm, overwrite=overwrite)["prompts"]
    if shown:
        _preview(local.load_prompts(out), shown)
    _say(f"{sum(sum(found.values()) for found in counts.values())} prompts in {out}")
    for name, found in counts.items():
        _say(f"  {name}: {found['correct']} of {sum(found.values())} correct")


def _preview(found: list[Any], count: int) -> None:
    from apmae.report.preview import print_prompts

    print_prompts(found, count)


@app.command(rich_help_panel="Stages")
def train(
    prompts: Annotated[Path, typer.Option(help="Prompts to train on, Parquet or JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder of the encoder.")],
    lm: LMOption = "bundled",
    recipe: Annotated[str, typer.Option(help="debug, nano, small or paper.")] = "nano",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; by default the recipe's.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Train an AP-MAE on the patterns that a model makes. A killed run goes on from its checkpoint."""
    from apmae.config import TrainConfig, parse
    from apmae.recipes import train_settings

    changes = {"seed": seed, **({} if steps is None else {"steps": steps}), **_settings(set_)}
    config = parse(TrainConfig, train_settings(recipe, changes), "train")
    from apmae.engine.local import train_encoder

    folder = train_encoder(_lm(lm, device, dtype, infill), prompts, out, config, overwrite=overwrite)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    _say(
        f"encoder in {folder}: loss {last['loss']:.5f} after {config.steps} steps; see {folder / 'reconstruction.png'}"
    )


@app.command(rich_help_panel="Stages")
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

    values = {"heads": heads if heads == "all" else _number(heads, "--heads"), "seed": seed, **_settings(set_)}
    config = parse(EncodeConfig, values, "encode")
    from apmae.engine import local

    counts = local.encode(_lm(lm, device, dtype, infill), encoder, prompts, out, config, overwrite=overwrite)
    _say(f"{counts['patterns']} patterns of {counts['prompts']} prompts in {out}")


@app.command(rich_help_panel="Stages")
def cluster(
    embeddings: Annotated[Path, typer.Argument(help="Folder that apmae encode made.")],
    out: Annotated[Path, typer.Option(help="Folder of the atlas.")],
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
) -> None:
    """Reduce and cluster embeddings, and name the clusters."""
    from apmae.config import AtlasConfig, parse

    config = parse(AtlasConfig, {"seed": seed, **_settings(set_)}, "cluster")
    from apmae.engine.local import fit_atlas

    counts = fit_atlas(embeddings, out, config, overwrite=overwrite)
    share = counts["clustered"] / max(counts["patterns"], 1)
    _say(f"{counts['clusters']} clusters hold {share:.1%} of {counts['patterns']} patterns; atlas in {out}")


@app.command(rich_help_panel="Stages")
def report(study: Annotated[Path, typer.Argument(help="Folder with embeddings/ and atlas/.")]) -> None:
    """Write the tables, pictures and page of a study."""
    from apmae.report.page import write_report
    from apmae.report.terminal import print_study

    page = write_report(study)
    print_study(study, page)


@app.command(rich_help_panel="Use an atlas")
def tag(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    file: Annotated[Path, typer.Argument(help="Source file with the line to complete.")],
    line: Annotated[int, typer.Option(help="Line whose completion is tagged, from 1.")],
    column: Annotated[
        int | None, typer.Option(help="Where in the line, from 1; by default its first character.")
    ] = None,
    encoder: EncoderOption = "bundled",
    atlas: AtlasOption = "bundled",
    json_: Annotated[Path | None, typer.Option("--json", help="Write every head's tag as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
) -> None:
    """Tag every head of a model on one completion, in one forward pass."""
    from apmae.analyze.tag import line_prompt, tag_prompt
    from apmae.artifacts import write_json
    from apmae.atlas.atlas import Atlas
    from apmae.model.mae import APMAE
    from apmae.report.page import write_tag_page
    from apmae.report.terminal import print_tags

    prompt = line_prompt(file, line, column)
    mae = APMAE.from_pretrained(encoder)
    if atlas == "bundled" and not mae.equals(APMAE.from_pretrained()):
        raise ConfigError(
            f"expected an atlas fitted with the encoder {encoder}, the bundled one is of another: give --atlas"
        )
    places = Atlas.load(atlas)
    lm = _lm(model, device, dtype, infill)
    tagged = tag_prompt(lm, prompt, mae=mae, atlas=places)
    rows = tagged.tags.to_pylist()
    predicted = tagged.answer.predicted
    print_tags(rows, lm.num_layers, lm.num_heads, predicted=predicted, expected=tagged.window.expected_text)
    if json_:
        # JSON knows no NaN, which a score is where the prompt has no row to measure it on.
        finite = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        write_json(
            json_,
            {
                "model": model,
                "file": str(file),
                "line": line,
                "expected": tagged.window.expected_text,
                "predicted": predicted,
                "outcome": tagged.answer.outcome,
                "layers": lm.num_layers,
                "heads_per_layer": lm.num_heads,
                "heads": finite,
            },
        )
        _say(f"JSON in {json_}")
    if html:
        write_tag_page(
            html,
            title=f"{model}: {file.name}, line {line}",
            tokens=list(tagged.window.tokens),
            rows=rows,
            layers=lm.num_layers,
            heads=lm.num_heads,
            predicted=predicted,
            expected=tagged.window.expected_text,
        )
        _say(f"page in {html}")


@app.command(rich_help_panel="Use a model")
def show(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    prompt: Annotated[str | None, typer.Option(help="Text to show attention on; '-' reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Take the text from a file instead.")] = None,
    line: Annotated[int | None, typer.Option(help="With --file: complete this line, from 1, as tag does.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Text behind the completion position.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="LAYER.HEAD", help="A head to draw large, such as 3.5; repeat it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A .png, or an .html page with numbers under the pointer.")] = Path(
        "show.html"
    ),
    scale: Annotated[str, typer.Option(help="Colours by log or linear probability.")] = "log",
    long: Annotated[
        str, typer.Option(help="Over 256 tokens: pool joins tokens to blocks, crop shows the last ones.")
    ] = "pool",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    attention: Annotated[
        str | None, typer.Option(help="What computes the model's output, for instance flash_attention_2.")
    ] = None,
) -> None:
    """Draw what heads attend to on one prompt: chosen ones large, or a contact sheet of all."""
    from apmae.engine.show import expect_options, parse_heads, prompt_text
    from apmae.engine.show import show as draw

    expect_options(out, scale, long)
    before, after = prompt_text(sys.stdin.read() if prompt == "-" else prompt, file, line, suffix)
    lm = _lm(model, device, dtype, infill, attention)
    heads = parse_heads(head, lm) if head else "all"
    shown = draw(lm, before, out, suffix=after, heads=heads, scale=scale, long=long)
    _say(shown.summary)


def _study(config: Any, overwrite: bool) -> None:
    from apmae.engine.local import run_study
    from apmae.report.terminal import print_study

    page = run_study(config, overwrite=overwrite)
    print_study(config.out, page)


def _lm(source: str, device: str, dtype: str, infill: str, attention: str | None = None) -> Any:
    from apmae.lm.load import load_lm

    return load_lm(source, device=device, dtype=dtype, attention=attention, infill=infill)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``--set key=value``: values are YAML scalars, checked by the stage's configuration."""
    import yaml

    values = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"expected --set KEY=VALUE, got {pair!r}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"expected YAML in --set {pair}: {' '.join(str(error).split())[:200]}") from None
    return values


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"expected 'all' or a share in (0, 1] for {option}, got {text!r}") from None


def _say(line: str) -> None:
    typer.echo(line)


def main() -> None:
    """Entry point: a user's mistake is one line on stderr (each, of a prompts file) and exit code 2."""
    try:
        app()
    except MalformedError as error:
        _fail(error.heading if len(error.mistakes) > 1 else str(error), error.mistakes)
    except ApmaeError as error:
        _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}"
        _fail(f"cannot read or write{where}: {error.strerror or error}; check the path, its permissions and the disk")


def _fail(message: str, mistakes: Sequence[str] = ()) -> NoReturn:
    typer.echo(f"apmae: {' '.join(message.splitlines())}", err=True)
    for mistake in mistakes if len(mistakes) > 1 else ():
        typer.echo(f"  {mistake}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
