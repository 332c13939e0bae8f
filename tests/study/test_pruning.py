"""What the prune stage made of a study is read back and stands in its report; of other prompts it is left out."""

import pyarrow as pa
import pytest
from pages import check

from apmae.artifacts import Stage
from apmae.engine.report import write_report
from apmae.errors import ArtifactError
from apmae.schema import PRUNED_SETS, PRUNING, RANKED_HEADS
from apmae.study.pruning import PRUNING_RESULTS, read_pruning
from apmae.study.reader import Study

COUNTS = {
    **{"transfers": "", "elsewhere": 2.0, "ranking": 20, "measuring": 20, "measuring_groups": 9, "heads": 8},
    **{"measuring_correct": 12, "drawn": "any", "natural_rate": 0.6, "mode": "mean", "left_out": {}},
}


def pruned(study, out, **inputs):
    rows = [
        {"ranking": ranking, "dose": dose, "control": control, "sets": 1, "drawn": 0.6 - dose / 20}
        | {"kept": 1 - dose / 12, "kept_low": 0.5, "kept_high": 1.1, "kept_all_low": 0.4, "kept_all_high": 1.2}
        for ranking, control in (("gradient", ""), ("gradient", "layers"), ("random", ""))
        for dose in (4, 2)
    ]
    heads = [{"ranking": "gradient", "layer": 0, "head": 1, "place": 0, "score": 0.5}]
    tables = [
        pa.Table.from_pylist(rows, schema=PRUNING),
        pa.Table.from_pylist(heads, schema=RANKED_HEADS),
        PRUNED_SETS.empty_table(),
    ]
    own = {name: study.encoded.inputs[name] for name in ("lm", "prompts") if name in study.encoded.inputs}
    with Stage.open(out, "prune", {}, {**own, **inputs}) as stage:
        stage.write_tables(dict(zip(PRUNING_RESULTS, tables, strict=True)))
        stage.finish(COUNTS)
    return tables


def test_tables_and_counts_come_back(write_study, tmp_path):
    study = Study(write_study(tmp_path / "study"))
    assert study.pruned is None
    tables = pruned(study, study.folder / "prune")
    found = Study(study.folder).pruned
    assert found is not None and list(found[:3]) == tables and dict(found.counts) == COUNTS
    assert found.rankings == ["gradient"]
    assert [row["dose"] for row in found.rows(ranking="gradient")] == [2, 4]
    assert len(found.rows()) == 4 and len(found.rows(control="layers")) == 2
    reader = check(write_report(study.folder).read_text(encoding="utf-8"))
    assert "How many heads the model can do without" in reader.text
    assert "Accuracy kept without 2 of 8 heads (mean): gradient 83% [50%, 110%], random 83%" in reader.text
    report = study.folder / "report"
    assert (report / "figures" / "pruning.png").is_file() and (report / "tables" / "pruning.csv").is_file()


def test_of_another_model_or_other_prompts_it_is_not_the_study_s(write_study, tmp_path):
    for number, name in enumerate(("lm", "prompts")):
        study = Study(write_study(tmp_path / str(number)))
        pruned(study, study.folder / "prune", **{name: "f" * 64})
        assert Study(study.folder).pruned is None


def test_an_unfinished_one_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="expected a finished prune artifact"):
        read_pruning(tmp_path)
