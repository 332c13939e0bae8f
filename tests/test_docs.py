"""The documents say what is true: their commands, settings, columns, queries, code and links."""

import re
import shlex
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import typer
import yaml
from pydantic_core import PydanticUndefined

from apmae import config, schema
from apmae.cli import app
from apmae.config import (
    AblateConfig,
    AnswersConfig,
    AtlasConfig,
    DimensionsConfig,
    EncodeConfig,
    EvaluateConfig,
    LocationsConfig,
    PatchingConfig,
    PredictConfig,
    PromptsConfig,
    PruneConfig,
    SimilarConfig,
    StudyConfig,
    TagsConfig,
    TopConfig,
    TrainConfig,
)
from apmae.errors import MalformedError
from apmae.prompts import own
from apmae.prompts.files import read_prompts
from apmae.prompts.languages import LANGUAGES
from apmae.prompts.sentinels import FAMILIES
from apmae.recipes import RECIPES, study_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ARTIFACTS, PIPELINE = ROOT / "docs/artifacts.md", ROOT / "docs/pipeline.md"
LIBRARY, LONG_CONTEXTS = ROOT / "docs/library.md", ROOT / "docs/long_contexts.md"
SCORES, TASKS = ROOT / "docs/scores.md", ROOT / "docs/tasks.md"
SECTIONS = {
    "prompts": (PromptsConfig,),
    "train": (TrainConfig,),
    "evaluate": (EvaluateConfig,),
    "encode": (EncodeConfig,),
    "dimensions": (DimensionsConfig,),
    "locations": (LocationsConfig,),
    "top": (TopConfig,),
    "similar": (SimilarConfig,),
    "answers": (AnswersConfig,),
    "predict": (PredictConfig,),
    "circuit": (PatchingConfig,),
    "ablate": (AblateConfig,),
    "prune": (PruneConfig,),
    "cluster": (AtlasConfig,),
    "tag": (TagsConfig,),
    "STUDY.yaml": (StudyConfig,),
}
PARTS = {config.Config, config.APMAEConfig, config.CaptureConfig, config.LMConfig, config.CircuitsConfig}
"""Settings that are listed with those that hold them, or in a separate document."""
IN_WORDS = {"tasks", "model", "out", "prompts", "encode", "atlas"}
"""Fields whose default is given in words."""
TABLES = {
    "PROMPTS": schema.PROMPTS,
    "ENCODED_PROMPTS": schema.ENCODED_PROMPTS,
    "embeddings(dim)": schema.embeddings(8),
    "EXEMPLARS": schema.EXEMPLARS,
    "RECONSTRUCTIONS": schema.RECONSTRUCTIONS,
    "LOSSES": schema.LOSSES,
    "answer_heads(eigenvalues)": schema.answer_heads(8),
    "answer_states(width)": schema.answer_states(8),
    "CIRCUIT": schema.CIRCUIT,
    "CIRCUIT_RECALL": schema.CIRCUIT_RECALL,
    "CIRCUIT_TASKS": schema.CIRCUIT_TASKS,
    "CIRCUIT_EDGES": schema.CIRCUIT_EDGES,
    "CIRCUIT_PAIRS": schema.CIRCUIT_PAIRS,
    "CIRCUIT_SCORES": schema.CIRCUIT_SCORES,
    "CIRCUIT_EFFECTS": schema.CIRCUIT_EFFECTS,
    "CIRCUIT_EDGE_EFFECTS": schema.CIRCUIT_EDGE_EFFECTS,
    "POINTS": schema.POINTS,
    "CLUSTERS": schema.CLUSTERS,
    "ORIGINS": schema.ORIGINS,
    "DIMENSIONS": schema.DIMENSIONS,
    "LOCATIONS": schema.LOCATIONS,
    "FOREIGN": schema.FOREIGN,
    "CORPORA_LOCATIONS": schema.CORPORA_LOCATIONS,
    "CORPORA_TASKS": schema.CORPORA_TASKS,
    "CORPORA": schema.CORPORA,
    "CORPORA_FOREIGN": schema.CORPORA_FOREIGN,
    "TOP": schema.TOP,
    "TOP_HEADS": schema.TOP_HEADS,
    "ATTENDED": schema.ATTENDED,
    "TOP_TEXTS": schema.TOP_TEXTS,
    "SIMILAR": schema.SIMILAR,
    "SIMILAR_HEADS": schema.SIMILAR_HEADS,
    "PREDICTION": schema.PREDICTION,
    "PREDICTION_TASKS": schema.PREDICTION_TASKS,
    "CALIBRATION": schema.CALIBRATION,
    "COVERAGE": schema.COVERAGE,
    "FITS": schema.FITS,
    "FORECASTS": schema.FORECASTS,
    "UNEDITED": schema.UNEDITED,
    "EFFECTS": schema.EFFECTS,
    "REMOVED": schema.REMOVED,
    "HEAD_SETS": schema.HEAD_SETS,
    "HEAD_EFFECTS": schema.HEAD_EFFECTS,
    "RELIABILITY": schema.RELIABILITY,
    "ABLATION": schema.ABLATION,
    "ABLATION_TASKS": schema.ABLATION_TASKS,
    "HEAD_READINGS": schema.HEAD_READINGS,
    "RANKED_HEADS": schema.RANKED_HEADS,
    "PRUNED_SETS": schema.PRUNED_SETS,
    "PRUNING": schema.PRUNING,
    "TAGS": schema.TAGS,
    "CORPUS_TAGS": schema.CORPUS_TAGS,
}


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def section(path, heading):
    """The text under a heading, up to the next one of any level."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.search(rf"^#+ {heading}$(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)[1]


def rows(text):
    """The tables of a text as lists of cells, headers left out."""
    lines = [line for line in text.splitlines() if re.match(r"\| `", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def defaults_of(kind):
    """The settings as a user may write them: fields of parts directly, a language model's source as the model."""
    found = {}
    for name, field in kind.model_fields.items():
        if name == "lm":
            found |= {"lm": field.default.source, **field.default.model_dump(exclude={"source"})}
        elif name == "capture":
            found |= field.default.model_dump()
        elif name == "model":
            found |= {"model": None, **field.default.model_dump()}
        else:
            found[name] = field.default
    return found


def commands(path):
    found = [line for block in blocks(path, "bash") for line in block.splitlines()]
    found += re.findall(r"`(apmae [^`]*)`", path.read_text())
    return [" ".join(line.split()) for line in found if line.startswith("apmae ") and "--help" not in line]


APMAE = typer.main.get_command(app)
COMMANDS = sorted({command for path in DOCUMENTS for command in commands(path)})


def test_there_are_commands_to_check():
    assert {shlex.split(command)[1] for command in COMMANDS} >= {
        *("run", "prompts", "train", "encode", "cluster", "report", "tag")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_its_options_exist(command):
    _, *arguments = shlex.split(command.replace("[", "").replace("]", ""), comments=True)
    own = APMAE if arguments[0].startswith("--") else APMAE.commands[arguments[0]]
    options = {option for parameter in own.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for argument in arguments:
        assert not argument.startswith("--") or argument in options


def test_every_option_that_set_takes_in_the_documents_is_a_setting():
    fields = {name for kinds in SECTIONS.values() for kind in kinds for name in defaults_of(kind)}
    keys = {key for path in DOCUMENTS for key in re.findall(r"--set ([a-z_]+)=", path.read_text())}
    assert keys and keys <= fields


def test_the_settings_of_every_stage_are_in_the_pipeline():
    kinds = {value for value in vars(config).values() if isinstance(value, type) and issubclass(value, config.Config)}
    assert {kind for section in SECTIONS.values() for kind in section} == kinds - PARTS


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_setting_is_in_the_pipeline_with_its_default(heading):
    fields = {name: default for kind in SECTIONS[heading] for name, default in defaults_of(kind).items()}
    written = {row[0].strip("`"): row[1].strip("`") for row in rows(section(PIPELINE, re.escape(heading)))}
    if heading == "train":
        listed = {name.split("`")[0] for name in written} & set(RECIPES)
        assert listed == set(RECIPES) - {"paper-7b", "paper-15b"}
        written = {name: default for name, default in written.items() if name.split("`")[0] not in RECIPES}
    assert set(written) == set(fields)
    for name, default in written.items():
        if name in IN_WORDS:
            continue
        wanted = fields[name]
        assert wanted is not PydanticUndefined
        value = yaml.safe_load(default)
        if isinstance(wanted, float):
            value = float(value)  # YAML 1.1 reads 1e-12 as text
        assert value == (list(wanted) if isinstance(wanted, tuple) else wanted), name


def test_every_table_is_in_the_artifacts_and_so_is_the_format():
    tables = {name for name, value in vars(schema).items() if isinstance(value, pa.Schema)}
    assert tables == {name for name in TABLES if "(" not in name}
    text = " ".join(ARTIFACTS.read_text().split())
    assert f"the format number is {schema.FORMAT}." in text
    assert f"| `format` | {schema.FORMAT};" in text


def test_the_tables_and_figures_of_a_report_are_in_the_artifacts(real_study):
    for folder, kind in (("tables", "csv"), ("figures", "png")):
        listed = re.search(rf"^    {folder}/\*\.{kind} +(.*)$", ARTIFACTS.read_text(), re.MULTILINE)[1]
        assert set(listed.split(", ")) == {path.stem for path in (real_study.folder / "report" / folder).iterdir()}


def test_every_language_is_in_the_tasks_with_its_files_and_in_the_help():
    _, *listed = rows(TASKS.read_text().split("\n## ")[0])
    written = {name.strip("`"): tuple(re.findall(r"`(\.[^`]+)`", files)) for name, files, _ in listed}
    assert written == {name: language.suffixes for name, language in LANGUAGES.items()}
    (shown,) = (parameter.help for parameter in APMAE.commands["prompts"].params if parameter.name == "language")
    shown = re.search(r"of the sources: (.*?)\.", shown)[1]
    assert set(re.split(r",? or |, ", shown)) == LANGUAGES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_in_the_artifacts_with_its_type(name):
    heading = rf"[^\n]*\(`schema\.{re.escape(name)}`\)"
    written = {}
    for row in rows(section(ARTIFACTS, heading)):
        written |= dict.fromkeys(re.findall(r"`(\w+)`", row[0]), row)
    assert list(written) == TABLES[name].names
    for field in TABLES[name]:
        kind = str(field.type).replace("halffloat", "float16").replace("float[", "float32[")
        kind = {"float": "float32"}.get(kind, kind)
        inner = re.search(r"<(?:item|element): (\w+)", kind)
        if inner:
            inner_type = {"float": "float32"}.get(inner[1], inner[1])
            kind = f"{'fixed list' if kind.startswith('fixed') else 'list'} of {inner_type}"
        assert written[field.name][1].startswith(kind), field.name
        assert not field.nullable or "null" in " ".join(written[field.name][1:]), field.name


def test_every_score_is_defined():
    defined = [row[0].strip("`") for row in rows(section(SCORES, "Definitions"))]
    assert defined == list(schema.SCORES)


def test_the_example_of_the_scores_runs(command_line, tmp_path):
    (code,) = blocks(SCORES, "python")
    code += "\nprint(scores.table.num_rows, scores.table.column_names[3:])"
    result = command_line.run(code=code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"96 {[*schema.SCORES, 'sinks']}\n"


def test_the_example_of_long_contexts_runs(command_line, tmp_path):
    (code,) = blocks(LONG_CONTEXTS, "python")
    code += "\nprint(input_ids.shape[1], len(tap.patterns), *tap.patterns.labels(0)[:2])"
    result = command_line.run(code=code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    tokens, patterns, *labels = result.stdout.split()
    assert int(tokens) == 1400
    assert int(patterns) == 12  # a quarter of 48 heads
    assert all(f"'{label}'" in code for label in labels)


def test_token_kinds_are_listed_in_order():
    listed = re.search(r"in the order of the two lists:\n(.*?)\n\n", ARTIFACTS.read_text(), re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == schema.KINDS


@pytest.mark.parametrize("number", range(3))
def test_a_query_runs(real_study, number):
    queries = blocks(ARTIFACTS, "sql")
    assert len(queries) == 3
    query = queries[number]
    assert "'demo-study/" in query
    with duckdb.connect() as connection:
        table = connection.sql(query.replace("demo-study/", f"{real_study.folder}/"))
        found = table.fetchall()
        printed = re.search(rf"{re.escape(query)}```\n\n```\n(.*?)```", ARTIFACTS.read_text(), re.DOTALL)
        assert found or number == 2  # the smallest study may have no cluster to compare
        header = printed[1].splitlines()[1]
        assert [name.strip() for name in header.strip("│").split("│")] == table.columns


def test_an_exemplar_is_unpacked_as_documented(real_study, command_line, tmp_path):
    (code,) = blocks(ARTIFACTS, "python")
    (tmp_path / "demo-study").symlink_to(real_study.folder, target_is_directory=True)
    result = command_line.run(code=code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    size, lowest, highest, above = re.fullmatch(r"\((\d+), \1\) (\S+) (\S+) (\S+)\n", result.stdout).groups()
    assert 0 < int(size) <= 256
    assert float(lowest) in (0.0, 1.0)  # 0: rows after a prompt that is shorter than its batch
    assert float(highest) == 1.0
    assert float(above) == 0.0


def test_the_tour_of_the_library_runs(command_line, tmp_path):
    result = command_line.run(code="\n".join(blocks(LIBRARY, "python")), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "'strength'" in result.stdout
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"heads.html", "map.png", "my-atlas", "my-encoder", "patterns.safetensors"}


def test_every_study_file_is_valid():
    texts = [text for path in DOCUMENTS for text in blocks(path, "yaml")]
    assert len(texts) == 2
    for text in texts:
        StudyConfig.model_validate(study_settings(yaml.safe_load(text)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


PROMPTS_PAGE = ROOT / "docs/prompts.md"


def test_every_family_is_in_the_prompts_with_its_window():
    written = {row[1].strip("`"): row[2].strip("`").replace("\\|", "|") for row in family_rows()}
    assert written.pop("none").startswith("{prefix}")
    assert written == FAMILIES


def family_rows():
    lines = section(PROMPTS_PAGE, "Fill-in-the-middle").splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in table]


def test_every_field_of_own_prompts_is_in_the_prompts():
    written = [row[0].strip("`") for row in rows(section(PROMPTS_PAGE, "Your own prompts"))]
    assert written == list(own.OwnPrompt.model_fields)


def test_mistakes_are_reported_as_documented(tmp_path):
    shown = blocks(PROMPTS_PAGE, "")[0].splitlines()
    (tmp_path / "mine.jsonl").write_text('{"prompt": 1, "completion": "b"}\n\n{"prompt": "a"}\n')
    with pytest.raises(MalformedError) as caught:
        read_prompts(tmp_path / "mine.jsonl")
    assert shown[1:] == [f"  {mistake}" for mistake in caught.value.mistakes]
