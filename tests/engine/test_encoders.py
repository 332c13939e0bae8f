"""Stages with encoders: prompts with masks, outcomes where there is a head, none where there is not."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from apmae.artifacts import read_manifest, read_table
from apmae.atlas.atlas import Atlas
from apmae.config import CaptureConfig, CircuitsConfig, EncodeConfig, LMConfig, PromptsConfig, StudyConfig
from apmae.corpus.parse import parse_source
from apmae.engine import checks, local, prompts
from apmae.engine.settings import read_study, training
from apmae.engine.study import run_study
from apmae.engine.tag import tag, tag_file, tag_prompt
from apmae.errors import CaptureError, ConfigError
from apmae.lm.declared import Declared
from apmae.lm.outcome import window_of
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.prompts.line import text_prompt
from apmae.study.exemplars import unpack
from apmae.study.reader import Study
from apmae.train.lm_source import LMSource

TEXT = PromptsConfig(language="text", tasks=("sentence_end", "number", "random"), per_task=4, length=64)
BARE = "encoder without a head for masked tokens"


def settings(**changes):
    return PromptsConfig(**{**TEXT.model_dump(), **changes})


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_prompts_of_an_encoder_have_the_outcomes_of_its_masks(tmp_path, encoder_lm, harbour, kind):
    """A model that puts a full stop in place of every mask is right at the ends of sentences, and nowhere else."""
    lm = encoder_lm(kind, ".")
    out = tmp_path / "prompts.parquet"
    counts = prompts.make_prompts([parse_source(harbour)], out, TEXT, lm=lm)
    ends = [row for row in read_table(out).to_pylist() if row["task"] == "sentence_end"]
    others = [row for row in read_table(out).to_pylist() if row["task"] == "number"]
    assert {row["completion"] for row in ends} >= {"."}
    assert all((row["outcome"] == "correct") == (row["completion"] == ".") for row in ends)
    assert {row["outcome"] for row in others} == {"incorrect"}
    assert {row["predicted"] for row in (*ends, *others)} == {"."}
    assert counts["prompts"]["number"] == {"correct": 0, "incorrect": 4, "unknown": 0}
    first = lm.masks.template.split("{")[0]
    assert read_manifest(out, "prompts").config["infill"] == (
        f"{first}{{prefix}}{lm.tokenizer.mask_token}{{suffix}}{lm.tokenizer.sep_token}"
    )


def test_prompts_of_an_encoder_without_a_head_have_no_outcome(tmp_path, encoder_lm, harbour):
    lm = encoder_lm("sentence")
    out = tmp_path / "prompts.parquet"
    with pytest.raises(ConfigError, match=rf"outcome 'any' for .*, got 'balanced': it is an {BARE}"):
        prompts.make_prompts([parse_source(harbour)], out, settings(outcome="balanced"), lm=lm)
    counts = prompts.make_prompts([parse_source(harbour)], out, TEXT, lm=lm)
    table = read_table(out)
    assert counts["prompts"]["random"] == {"correct": 0, "incorrect": 0, "unknown": 4}
    assert table["outcome"].null_count == table["predicted"].null_count == table.num_rows == 12
    for prompt in prompts.load_prompts(out):
        if prompt.task == "random":  # made of the model's own tokens
            assert 3 <= len(window_of(lm, prompt, 64).completion) <= 10
    with pytest.raises(ConfigError, match=f"a model that completes prompts, for circuits, .* is an {BARE}"):
        prompts.make_circuits(out, CircuitsConfig(circuits=("ioi",)), lm, overwrite=True)


@pytest.mark.parametrize("kind", ["bert", "sentence"])
def test_captured_patterns_of_an_encoder_are_square_and_over_its_windows(encoder_lm, harbour, tmp_path, kind):
    lm = encoder_lm(kind)
    out = tmp_path / "prompts.parquet"
    prompts.make_prompts([parse_source(harbour)], out, TEXT, lm=lm)
    drawn = prompts.load_prompts(out)
    for captured in capture_prompts(lm, drawn, CaptureConfig(batch=5), size=64):
        assert not captured.patterns.causal
        assert {answer is None for answer in captured.answers} == {kind == "sentence"}
        for number, window in enumerate(captured.windows):
            own = captured.patterns[captured.patterns.prompt == captured.patterns.prompt[0] + number]
            count = len(window.ids)
            dense = own.probabilities()
            assert abs(dense[:, :count, :count].sum(-1) - 1).max() < 2e-3
            assert not dense[:, count:].any() and not dense[:, :, count:].any()


def test_training_needs_outcomes_only_if_they_decide(encoder_lm, harbour, tmp_path):
    lm = encoder_lm("sentence")
    out = tmp_path / "prompts.parquet"
    prompts.make_prompts([parse_source(harbour)], out, TEXT, lm=lm)
    drawn = prompts.load_prompts(out)
    config = CaptureConfig(heads=1.0, batch=2)
    with pytest.raises(ConfigError, match=r"got 'correct': .* set outcome to any \(--set outcome=any\)"):
        LMSource(lm, drawn, config, size=64, batch_size=16, seed=0, buffer=64)
    with LMSource(lm, drawn, config, size=64, batch_size=16, seed=0, buffer=64, outcome="any") as source:
        batch = source.batch(0)
        assert not batch.causal
        assert len(batch) == 16
        assert source.counts() == {"epoch": 1, "asked": 8}


# -- a whole study -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sentence", pytest.param("bert", marks=pytest.mark.slow)])
def finished(request, encoder_folder, harbour, tmp_path_factory):
    """A study of a small encoder that trains its own AP-MAE of square patterns; with a head, and without."""
    lm = encoder_folder(request.param, "." if request.param == "bert" else None)
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    drawn = {"language": "text", "length": 64}
    study = {
        "lm": str(lm),
        "sources": [str(harbour)],
        "encoder": "train",
        "prompts": {**drawn, "tasks": ["sentence_end", "number"], "per_task": 4, "outcome": "any", "split": "all"},
        "train": {"recipe": "debug", "outcome": "any", "pattern_size": 64, "patch_size": 16},
        "train_prompts": {**drawn, "per_task": 8, "split": "all"},
        "encode": {"exemplars_per_head": 2},
    }
    path.write_text(yaml.safe_dump(study))
    config = read_study(path)
    assert not config.train.model.causal
    assert config.train.crop == 0
    return request.param, config, run_study(config)


def test_a_study_of_an_encoder_goes_from_prompts_to_its_report(finished):
    kind, config, page = finished
    study = Study(config.out)
    assert study.heads_by_layer == (4, 4)
    assert study.points.num_rows == 2 * 4 * study.prompts.num_rows == 64
    mae = APMAE.from_pretrained(config.out / "encoder")
    assert (mae.config.causal, mae.config.num_patches) == (False, 16)
    unknown = kind == "sentence"
    assert study.prompts["outcome"].null_count == (study.prompts.num_rows if unknown else 0)
    assert (study.encoded.counts["correct"] is None) == unknown
    rows = study.read_exemplars(range(len(study.exemplars.prompt)))
    assert rows and not any(row["causal"] for row in rows)
    for row in rows:
        probabilities = np.exp(unpack(row))
        count = len(study.tokens(row["prompt"]))
        np.testing.assert_allclose(probabilities[:count, :count].sum(1), 1, atol=5e-3)
        assert np.triu(probabilities, 1).any()
    assert {row["causal"] for row in study.reconstructions} == {False}
    text = page.read_text()
    assert "8 prompts" in text
    assert ("no outcome is known" in text) == unknown


def test_heads_of_an_encoder_are_tagged(finished, encoder_lm, tmp_path, capsys):
    kind, config, _ = finished
    lm = encoder_lm(kind, "." if kind == "bert" else None)
    mae, atlas = APMAE.from_pretrained(config.out / "encoder"), Atlas.load(config.out / "atlas")
    text = "Anna counted the boats. Peter saw the lamp."
    whole = tag_prompt(lm, text_prompt(text, "", None), mae=mae, atlas=atlas)
    assert whole.answer is None
    assert list(whole.window.ids) == lm.tokenizer(text).input_ids, "without a gap the text is read as it is"
    assert whole.tags.num_rows == 8
    assert repr(tag(lm, text, mae=mae, atlas=atlas).to_pylist()) == repr(whole.tags.to_pylist()), "a NaN is not itself"
    holed = tag(lm, "Anna counted the ", suffix=" in the evening.", mae=mae, atlas=atlas)
    assert holed.num_rows == 8
    with pytest.raises(CaptureError, match="causal patterns for this AP-MAE, got square ones"):
        tag(lm, text)
    file = tmp_path / "a.txt"
    file.write_text("The old harbour was quiet.\nBoats rested on the water.\nThe wind turned.\n")
    where = {"encoder": str(config.out / "encoder"), "atlas": str(config.out / "atlas")}
    tag_file(LMConfig(source=lm.source), file, 2, json=tmp_path / "a.json", html=tmp_path / "a.html", **where)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["expected"] == "Boats rested on the water."
    assert record["predicted"] == (None if kind == "sentence" else ".")
    assert record["outcome"] == (None if kind == "sentence" else "incorrect")
    printed = " ".join(capsys.readouterr().out.split())
    assert ("answers nothing" in printed) == (kind == "sentence")


def test_an_ap_mae_of_the_other_shape_is_refused_before_torch_is_imported(finished, tmp_path):
    _, config, _ = finished
    encode = EncodeConfig()
    given = (tmp_path / "prompts.jsonl", tmp_path / "embeddings", encode)
    given[0].write_text(json.dumps({"prompt": "The ", "completion": "lamp"}))
    with pytest.raises(CaptureError, match="causal patterns for this AP-MAE, got square ones of an encoder"):
        checks.expect_encode(config.lm, "bundled", *given, overwrite=False)
    with pytest.raises(CaptureError, match="square patterns for this AP-MAE, .* got causal ones"):
        local.encode(LMConfig(), str(config.out / "encoder"), *given)


# -- before anything heavy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, False),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, False),
        ({"model_type": "bert"}, False),
        ({"model_type": "electra", "architectures": ["ElectraForPreTraining"]}, False),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, True),
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, True),
        ({"model_type": "bert", "architectures": ["BertModel"], "is_decoder": True}, True),
        ({"model_type": "gpt2", "architectures": ["GPT2Model"]}, True),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, True),
        ({"architectures": "BertModel", "model_type": 3}, True),
    ],
)
def test_a_head_is_declared(values, answers, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert Declared.of(LMConfig(source=str(tmp_path))).answers == answers


def test_what_is_declared_is_what_loading_finds(encoder_folder, encoder_lm):
    for kind in ("bert", "roberta", "distilbert", "modernbert", "sentence"):
        assert Declared.of(LMConfig(source=str(encoder_folder(kind)))).answers == encoder_lm(kind).answers


def test_outcomes_that_cannot_be_known_are_refused_before_torch_is_imported(encoder_folder, harbour, tmp_path):
    lm, sources = LMConfig(source=str(encoder_folder("sentence"))), [parse_source(harbour)]
    refusals = [
        lambda: checks.expect_source_files(sources, None, settings(outcome="correct"), lm, overwrite=False),
        lambda: checks.expect_circuits((), None, CircuitsConfig(circuits=("ioi",), length=64), lm, overwrite=False),
        lambda: checks.expect_training(
            training("nano", {"outcome": "correct"}, lm.model_dump(), language="text", per_task=4),
            tmp_path / "encoder",
            prompts=None,
            corpus=sources,
            patterns=(),
            track=None,
            overwrite=False,
        ),
        lambda: checks.expect_study(
            StudyConfig(lm=lm, sources=(str(harbour),), out=tmp_path / "study", prompts=settings(outcome="balanced")),
            overwrite=False,
        ),
    ]
    for refusal in refusals:
        with pytest.raises(ConfigError, match=BARE):
            refusal()
    script = (
        "import sys\nfrom apmae.cli import main\n"
        f"sys.argv[1:] = ['prompts', {str(harbour)!r}, '--language', 'text', '--lm', {lm.source!r}, '--preview']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.split() == ["2", "False"], run
    assert "--set outcome=any" in run.stderr
    assert not (tmp_path / "encoder").exists()
