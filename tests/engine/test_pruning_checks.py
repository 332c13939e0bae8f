"""What apmae prune takes of a study, and which folders it writes a model to."""

from pathlib import Path

import pytest

from apmae.artifacts import read_manifest, write_json
from apmae.config import PruneConfig
from apmae.engine.pruning_checks import PRUNED_FILE, Saving, expect_pruning, expect_savable, pruning_subject
from apmae.errors import ArtifactError, ConfigError


def test_a_study_gives_its_model_prompts_window_and_atlas(real_study, tmp_path):
    found = pruning_subject(real_study.folder, None, None, None, PruneConfig(), {})
    encoded = read_manifest(real_study.folder / "embeddings", "encode")
    assert (found.lm, found.out) == (real_study.config.lm, real_study.folder / "prune")
    assert found.config.context == encoded.counts["context"] and found.study == real_study.folder
    expect_pruning(found, Saving(tmp_path / "model", 3, None), None, overwrite=False)
    other = pruning_subject(real_study.folder, "bundled-small", None, tmp_path, PruneConfig(context=64), {})
    assert other.study is None and other.study_lm == encoded.inputs["lm"] and other.config.context == 64
    with pytest.raises(ConfigError, match="expected --out with --lm and a STUDY"):
        pruning_subject(real_study.folder, "bundled-small", None, None, PruneConfig(), {})


def test_a_model_goes_to_a_new_folder_or_over_another_pruned_one(tmp_path):
    config, out = PruneConfig(rankings=("gradient",)), tmp_path / "out"
    for name in ("new", "empty"):
        expect_savable(Saving(tmp_path / name, 3, "gradient"), config, out, overwrite=False)
        (tmp_path / "empty").mkdir(exist_ok=True)
    write_json(tmp_path / "old" / PRUNED_FILE, {})
    with pytest.raises(ArtifactError, match="holds one; --overwrite replaces it"):
        expect_savable(Saving(tmp_path / "old", 3, None), config, out, overwrite=False)
    expect_savable(Saving(tmp_path / "old", 3, None), config, out, overwrite=True)
    with pytest.raises(ArtifactError, match="is a file; choose another|no model that apmae pruned"):
        expect_savable(Saving(Path(__file__), 3, None), config, out, overwrite=True)
    with pytest.raises(ConfigError, match="one of the rankings gradient, got flow; add it to --ranking"):
        expect_savable(Saving(tmp_path / "new", 3, "flow"), config, out, overwrite=False)
    with pytest.raises(ConfigError, match="other than that of the tables"):
        expect_savable(Saving(tmp_path, 3, None), config, out, overwrite=False)
