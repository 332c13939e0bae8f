"""The locations stage: which patterns occur where, in which tasks and outcomes, against chance (paper section 6.2)."""

from pathlib import Path

import pyarrow as pa

from apmae.analyze.locations import against_chance
from apmae.artifacts import Stage, fingerprint, read_table
from apmae.config import LocationsConfig
from apmae.progress import progress, telling
from apmae.report import terminal
from apmae.schema import FOREIGN_FILE, LOCATIONS_FILE, POINTS_FILE
from apmae.study.layout import Layout
from apmae.study.reader import Study


def locate(study: Path, config: LocationsConfig | None = None, *, overwrite: bool = False) -> tuple[pa.Table, pa.Table]:
    """Count a study's pattern locations by task and outcome, and set them against chance.

    Writes ``locations.parquet`` and ``foreign.parquet`` into ``locations/`` in the study. Patterns stay on disk.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``.
        config: permutations, seed.
        overwrite: replace what was made with other settings or from another atlas.

    Returns:
        ``schema.LOCATIONS`` and ``schema.FOREIGN``.

    Raises:
        ArtifactError: if the study is unfinished or damaged, or was analysed with other settings.
    """
    config, opened = config or LocationsConfig(), Study(study)
    out = Layout(opened.folder).locations
    inputs = {"encode": fingerprint(opened.embeddings_folder), "cluster": fingerprint(opened.atlas_folder)}
    with Stage.open(out, "locations", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            prompts = [opened.embeddings_folder / name for name in opened.encoded.shards("prompts")]
            with progress("locations", 4, unit="steps") as advance:
                made = against_chance(
                    opened.atlas_folder / POINTS_FILE,
                    prompts,
                    opened.clusters,
                    config,
                    telling(advance),
                    per_head=opened.clustered.config["clusterer"] == "per_head",
                )
                advance(1)
            stage.write_tables(dict(zip((LOCATIONS_FILE, FOREIGN_FILE), made, strict=True)))
            stage.finish({"tasks": made[0].num_rows})
    return read_table(out / LOCATIONS_FILE), read_table(out / FOREIGN_FILE)


def print_locations(found: tuple[pa.Table, pa.Table]) -> None:
    """Print locations by task, and what they say against chance."""
    terminal.print_locations(*found)
