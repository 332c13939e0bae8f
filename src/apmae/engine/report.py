"""The report stage: a finished study's page, pictures and tables."""

from pathlib import Path

from apmae.artifacts import Stage, fingerprint
from apmae.report import terminal
from apmae.report.page import report_of
from apmae.study.layout import Layout
from apmae.study.reader import Study


def write_report(study: Path, out: Path | None = None) -> Path:
    """Write a study's page, pictures and tables; an earlier report is replaced.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``.
        out: the report's folder; None takes ``report/`` in the study.

    Returns:
        The page, ``index.html``.

    Raises:
        ArtifactError: if the study is unfinished or damaged, or the report cannot be written.
    """
    opened = Study(study)
    out = Path(out) if out is not None else Layout(opened.folder).report
    # Everything is made before anything is written, so that a damaged study leaves the earlier report as it was.
    made = report_of(opened)
    inputs = {"encode": fingerprint(opened.embeddings_folder), "cluster": fingerprint(opened.atlas_folder)}
    # Nobody edits a report, so it is made again whenever it is asked for, whichever version made it before.
    with Stage.open(out, "report", {}, inputs, overwrite=True) as stage:
        stage.write_files(made.files)
        stage.finish({"figures": made.figures, "tables": made.tables})
    return out / "index.html"


def print_report(study: Path, page: Path) -> None:
    """Print the clusters of a study, the grid of its heads, and where to look next.

    Args:
        study: its folder.
        page: its report's page.
    """
    terminal.print_study(Study(study), page)
