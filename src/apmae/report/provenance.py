"""What a study's report was made from: hash, inputs, settings and versions of every stage that it shows."""

import json
from collections.abc import Iterator
from pathlib import Path

from apmae.artifacts import fingerprint, manifest_path, read_json, read_manifest
from apmae.study.layout import Layout
from apmae.study.reader import Study
from apmae.study.tags import tags_of


def stages_of(study: Study) -> list[dict[str, str]]:
    """Every stage that the report shows something of, in the order in which they were made.

    Raises:
        ArtifactError: if a manifest is damaged.
    """
    described = []
    for out in _artifacts(study):
        path = manifest_path(out)
        record = read_json(path)
        noted = {key: record.get(key, {}) for key in ("config", "counts", "inputs")}
        described.append(
            {
                "stage": record["stage"],
                "path": path.relative_to(study.folder).as_posix(),
                "sha256": fingerprint(out),
                "seed": str(noted["config"].get("seed", "not noted")),
                "versions": ", ".join(f"{name} {number}" for name, number in sorted(record["versions"].items())),
                "noted": json.dumps(noted, indent=2, sort_keys=True, ensure_ascii=False),
            }
        )
    return described


def _artifacts(study: Study) -> Iterator[Path]:
    """Those whose results are in the report; prompts and encoder may come from elsewhere."""
    layout = Layout(study.folder)
    if manifest_path(layout.prompts).is_file():
        yield layout.prompts
    if manifest_path(layout.encoder).is_file() and study.encoded.counts.get("encoder") == layout.encoder.name:
        yield layout.encoder
    yield from (study.embeddings_folder, study.atlas_folder)
    if study.located is not None:
        yield layout.locations
    if study.predicted is not None:
        read = read_manifest(layout.prediction, "predict").inputs.get("answers")
        if read is not None and manifest_path(layout.answers).is_file() and fingerprint(layout.answers) == read:
            yield layout.answers
        yield layout.prediction
    if study.ablated is not None:
        yield layout.ablation
    if study.pruned is not None:
        yield layout.pruning
    if study.circuit is not None:
        yield layout.circuit
    yield from (layout.top / name for name in study.tops)
    yield from (tags.folder for tags in tags_of(study).values())
