"""The locations stage: which patterns occur where, in which tasks and outcomes, against chance (paper section 6.2)."""

from pathlib import Path

import pyarrow as pa

from apmae.analyze.locations import against_chance
from apmae.artifacts import Stage, read_table
from apmae.config import LocationsConfig
from apmae.progress import progress, telling
from apmae.report import terminal
from apmae.schema import FOREIGN_FILE, LOCATIONS_FILE
from apmae.study.layout import Layout
from apmae.study.tags import open_placed


def locate(
    folder: Path, config: LocationsConfig | None = None, *, overwrite: bool = False
) -> tuple[pa.Table, pa.Table]:
    """Count pattern locations by task and outcome, and set them against chance.

    Writes ``locations.parquet`` and ``foreign.parquet`` into ``locations/`` in the folder. Patterns stay on disk.

    Args:
        folder: a study, or tags that ``apmae tag --prompts`` made.
        config: permutations, seed.
        overwrite: replace what was made with other settings or from another atlas.

    Returns:
        ``schema.LOCATIONS`` and ``schema.FOREIGN``.

    Raises:
        ArtifactError: if the folder is unfinished or damaged, or was analysed with other settings.
    """
    config, placed = config or LocationsConfig(), open_placed(folder)
    out, settings = Layout(placed.folder).locations, config.model_dump(mode="json")
    with Stage.open(out, "locations", settings, placed.made_from, overwrite=overwrite) as stage:
        if not stage.finished:
            with progress("locations", 4, unit="steps") as advance:
                made = against_chance(
                    placed.point_files,
                    placed.prompt_files,
                    placed.clusters,
                    config,
                    telling(advance),
                    per_head=placed.per_head,
                )
                advance(1)
            stage.write_tables(dict(zip((LOCATIONS_FILE, FOREIGN_FILE), made, strict=True)))
            stage.finish({"tasks": made[0].num_rows})
    return read_table(out / LOCATIONS_FILE), read_table(out / FOREIGN_FILE)


def print_locations(found: tuple[pa.Table, pa.Table]) -> None:
    """Print locations by task, and what they say against chance."""
    terminal.print_locations(*found)
