"""What the ablate stage made of a study is read back and stands in its report; of other prompts it is left out."""

import pyarrow as pa
import pytest
from pages import check

from apmae.artifacts import Stage
from apmae.engine.report import write_report
from apmae.errors import ArtifactError
from apmae.schema import ABLATION, ABLATION_TASKS, HEAD_EFFECTS, HEAD_SETS, RELIABILITY
from apmae.study.ablation import ABLATION_RESULTS, read_ablation
from apmae.study.reader import Study

SCHEMAS = (HEAD_EFFECTS, RELIABILITY, ABLATION, ABLATION_TASKS, HEAD_SETS)
COUNTS = {
    **{"transfers": "", "elsewhere": 2.0, "ranking": 20, "measuring": 20, "measuring_groups": 9},
    **{"measuring_correct": 12, "drawn": "any", "natural_rate": 0.6, "heads_by_layer": [4, 4]},
}


def ablated(study, out, **inputs):
    heads = [
        {"mode": "zero", "half": half, "layer": 1, "head": 2, "prompts": 20, "lost": 3, "gained": 1}
        | {"log_probability": -0.7, "log_probability_low": -0.9, "log_probability_high": -0.5, "accuracy": -0.1}
        for half in ("ranking", "measuring", "both")
    ]
    tables = [pa.Table.from_pylist(heads, schema=HEAD_EFFECTS), *(schema.empty_table() for schema in SCHEMAS[1:])]
    own = {name: study.encoded.inputs[name] for name in ("lm", "prompts") if name in study.encoded.inputs}
    with Stage.open(out, "ablate", {}, {**own, **inputs}) as stage:
        stage.write_tables(dict(zip(ABLATION_RESULTS, tables, strict=True)))
        stage.finish(COUNTS)
    return tables


def test_tables_and_counts_come_back(write_study, tmp_path):
    study = Study(write_study(tmp_path / "study"))
    assert study.ablated is None
    tables = ablated(study, study.folder / "ablate")
    found = Study(study.folder).ablated
    assert found is not None and list(found[:5]) == tables and dict(found.counts) == COUNTS
    assert found.modes == ["zero"] and found.ranked("zero") == []
    reader = check(write_report(study.folder).read_text(encoding="utf-8"))
    assert "What the model does without heads" in reader.text
    assert "Largest: 1.2 -0.70 nats." in reader.text
    report = study.folder / "report"
    assert (report / "figures" / "head_effects.png").is_file() and (report / "tables" / "ablation.csv").is_file()
    assert "1.2" in (report / "tables" / "head_effects.csv").read_text()


def test_of_another_model_or_other_prompts_it_is_not_the_study_s(write_study, tmp_path):
    for number, name in enumerate(("lm", "prompts")):
        study = Study(write_study(tmp_path / str(number)))
        ablated(study, study.folder / "ablate", **{name: "f" * 64})
        assert Study(study.folder).ablated is None


def test_an_unfinished_one_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="expected a finished ablate artifact"):
        read_ablation(tmp_path)
