"""What apmae ablate takes of a study, and what it is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from apmae.artifacts import read_manifest
from apmae.config import AblateConfig
from apmae.engine.ablation_checks import CONTEXT, expect_ablation, expect_measurable, heads_asked, subject_of
from apmae.engine.prompts import load_prompts
from apmae.errors import ConfigError


def test_a_study_gives_its_model_prompts_and_window(real_study):
    found = subject_of(real_study.folder, None, None, None, AblateConfig(), {"dtype": "bfloat16"})
    encoded = read_manifest(real_study.folder / "embeddings", "encode")
    assert found.lm == real_study.config.lm.model_copy(update={"dtype": "bfloat16"})
    assert found.prompts == real_study.folder / "prompts.parquet" and found.out == real_study.folder / "ablate"
    assert found.config.context == encoded.counts["context"]
    assert (found.study_lm, found.study_lm_name) == (encoded.inputs["lm"], encoded.counts["lm"])
    expect_ablation(found, None, overwrite=False)


def test_another_model_keeps_the_study_s_prompts_and_is_told_from_its_own(real_study, tmp_path):
    config = AblateConfig(context=64)
    with pytest.raises(ConfigError, match="expected --out with --lm and a STUDY"):
        subject_of(real_study.folder, "bundled-small", None, None, config, {})
    found = subject_of(real_study.folder, "bundled-small", None, tmp_path / "out", config, {})
    assert found.lm.source == "bundled-small" and found.config.context == 64
    assert found.study_lm == read_manifest(real_study.folder / "embeddings", "encode").inputs["lm"]


def test_without_a_study_prompts_and_a_folder_are_needed(tmp_path):
    prompts = Path("prompts.jsonl")
    found = subject_of(None, None, prompts, tmp_path, AblateConfig(), {})
    assert (found.lm.source, found.prompts, found.out) == ("bundled", prompts, tmp_path)
    assert found.config.context == CONTEXT and found.study_lm is None
    with pytest.raises(ConfigError, match="no STUDY and no --out; give one or the other"):
        subject_of(None, None, prompts, None, AblateConfig(), {})


def test_heads_are_written_with_commas_or_one_by_one():
    assert heads_asked(None) == heads_asked(["all"]) == "all"
    assert heads_asked(["3.5,4.0", "3.5", " 0.1 "]) == ((3, 5), (4, 0), (0, 1))
    with pytest.raises(ConfigError, match="LAYER.HEAD like 3.5"):
        heads_asked(["3.5,four"])


def test_prompts_without_completions_are_refused(real_study):
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    expect_measurable(prompts)
    prompts[1] = replace(prompts[1], completion="")
    with pytest.raises(ConfigError, match=f"1 of {len(prompts)} have none \\({prompts[1].id}\\)"):
        expect_measurable(prompts)
