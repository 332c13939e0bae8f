"""The corpora stage: pattern locations of several folders of tags side by side, for instance of languages."""

from collections.abc import Sequence
from pathlib import Path

from apmae.analyze.corpora import Tables, compare_corpora
from apmae.artifacts import Stage, fingerprint, read_table
from apmae.config import LocationsConfig
from apmae.engine.head_checks import expect_alike, named_corpora
from apmae.progress import progress, telling
from apmae.report import corpora as report
from apmae.schema import CORPORA_FILES
from apmae.study.tags import Tags


def locate_corpora(
    folders: Sequence[Path], out: Path, config: LocationsConfig | None = None, *, overwrite: bool = False
) -> Tables:
    """Set the locations of several corpora side by side; no model runs, and tags stay on disk.

    Args:
        folders: two or more that ``apmae tag --prompts`` made, of one model, with the same atlas and settings.
        out: the folder for the tables.
        config: permutations, seed.
        overwrite: replace what was made from something else.

    Raises:
        ConfigError: if there are fewer than two, one is given twice, or their models, atlases or settings differ.
        ArtifactError: if one is no finished folder of tags, or the tables were made with other settings.
    """
    config, named = config or LocationsConfig(), named_corpora(folders)
    expect_alike(named)
    inputs = {f"tags-{name}": fingerprint(folder) for name, folder in named.items()}
    with Stage.open(out, "corpora", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            corpora = {name: Tags(folder) for name, folder in named.items()}
            with progress("locations", len(corpora) + 2, unit="steps") as advance:
                made = compare_corpora(corpora, config, telling(advance))
                advance(1)
            stage.write_tables(dict(zip(CORPORA_FILES, made, strict=True)))
            stage.finish({"corpora": list(named)})
    return Tables(*(read_table(out / name) for name in CORPORA_FILES))


def print_corpora(found: Tables) -> None:
    """Print locations by corpus and task, and what they say against chance."""
    report.print_corpora(found)
