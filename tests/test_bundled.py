"""What comes with the package: weights that show structure, Java that fills the tasks, within the size allowed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from apmae import bundled
from apmae.atlas.atlas import Atlas
from apmae.config import TASKS, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.engine.tag import tag
from apmae.lm.load import load_lm
from apmae.lm.outcome import AskLM
from apmae.lm.tap import capture
from apmae.model.mae import APMAE
from apmae.patterns.planted import planted
from apmae.patterns.scores import score
from apmae.prompts.draw import build_prompts, draw_prompts, with_outcomes


@pytest.fixture(scope="module")
def lm():
    return load_lm()


def test_bundled_files_fit_in_30_mb():
    folder = Path(bundled.__file__).parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 30_000_000


def test_the_java_sample_is_large_enough():
    files = list(bundled.java().rglob("*.java"))
    assert len(files) >= 40
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) >= 5000


def test_the_language_model_has_the_known_heads(lm):
    """On repeated random tokens: previous token, self, and induction above 0.5 (key: one after the first copy)."""
    half = 64
    ids = np.tile(np.random.default_rng(0).choice(np.arange(5, 4096), size=(8, half), replace=True), (1, 2))
    with capture(lm.model) as tap, torch.no_grad():
        lm.model(torch.from_numpy(ids), use_cache=False)
    heads = tap.patterns.probabilities().reshape(8, -1, 2 * half, 2 * half).mean(0)
    query = np.arange(half, 2 * half)
    assert heads[:, query, query - 1].mean(-1).max() > 0.8
    assert heads[:, query, query].mean(-1).max() > 0.8
    assert heads[:, query, query - half + 1].mean(-1).max() > 0.5


FAMILY = {"bundled-small": (3, 4), "bundled-medium": (4, 6), "bundled": (6, 8)}


@pytest.fixture(scope="module")
def family():
    return {name: load_lm(name) for name in FAMILY}


def test_the_family_is_three_sizes_with_one_tokenizer(family):
    assert set(bundled.LANGUAGE_MODELS) == set(FAMILY)
    tokenizer = family["bundled"].backend_tokenizer.to_str()
    for name, lm in family.items():
        assert (lm.num_layers, lm.num_heads) == FAMILY[name]
        assert lm.backend_tokenizer.to_str() == tokenizer
        assert lm.sentinels == family["bundled"].sentinels
        assert bundled.name_of(lm.source) == name
    assert bundled.name_of("/models/other") == "other"


@pytest.mark.slow
def test_a_larger_model_of_the_family_answers_better(family):
    """On Java that none of them has seen: the first token of 200 spans, the same number per task."""
    files = parse_source("bundled").handles((".java",))
    prompts, _ = build_prompts(files, PromptsConfig(per_task=20), tokenizer=family["bundled"].backend_tokenizer)
    asked = {name: with_outcomes(AskLM(lm), prompts, 256) for name, lm in family.items()}
    right = [sum(prompt.outcome == "correct" for prompt in asked[name]) for name in FAMILY]
    assert right == sorted(right)
    assert right[0] > 40
    expected = [np.mean([prompt.answer.expected_probability for prompt in asked[name]]) for name in FAMILY]
    assert expected == sorted(expected)


def test_the_language_model_has_a_sink_on_code(lm):
    text = (bundled.java() / "harbour" / "berth" / "BerthScheduler.java").read_text(encoding="utf-8")
    ids = [0, *lm.backend_tokenizer.encode(text, add_special_tokens=False).ids[:255]]
    with capture(lm.model) as tap, torch.no_grad():
        lm.model(torch.tensor([ids]), use_cache=False)
    assert score(tap.patterns)["first_token"].max() > 0.5


def test_at_least_nine_tasks_have_both_outcomes(lm):
    config = PromptsConfig(per_task=4, outcome="balanced")
    files = parse_source("bundled").handles((".java",))
    _, counts = draw_prompts(AskLM(lm), files, config, rejected=Counter())
    filled = [
        task for task in TASKS if counts["prompts"][task]["correct"] >= 2 and counts["prompts"][task]["incorrect"] >= 2
    ]
    assert len(filled) >= 9


def test_tag_names_heads_with_what_is_bundled(lm):
    text = (bundled.java() / "harbour" / "berth" / "BerthScheduler.java").read_text(encoding="utf-8")
    middle = text.index("\n", len(text) // 2)
    tags = tag(lm, text[:middle], suffix=text[middle:])
    assert len(tags) == lm.num_layers * lm.num_heads
    known = [row for row in tags.to_pylist() if row["cluster"] >= 0]
    assert len(known) > len(tags) / 3
    names = Atlas.load().names
    assert all(set(row["name"].split(", ")) <= set(names[row["cluster"]].split(", ")) for row in known)


def test_a_short_prompt_is_not_placed_by_its_length(lm):
    """The heads of a short prompt are not all in one cluster, and the previous-token head keeps its name."""
    text = "class Box {\n    private int size;\n\n    int size() {\n        return "
    rows = tag(lm, text, suffix=";\n    }\n}\n").to_pylist()
    known = Counter(row["cluster"] for row in rows if row["cluster"] >= 0)
    assert max(known.values(), default=0) <= len(rows) / 3
    previous = max(rows, key=lambda row: row["score_previous"])
    assert "previous token" in previous["measured"]


def test_the_encoder_separates_planted_families():
    patterns, families = planted(12, noise=0.3, seed=3)
    z = APMAE.from_pretrained().encode(patterns)
    distance = np.abs(z[:, None] - z[None]).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (families[distance.argmin(1)] == families).mean() > 0.75


def test_training_settings_are_beside_the_encoder():
    record = json.loads((bundled.encoder() / "training.json").read_text())
    lines = (bundled.encoder() / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == record["steps"] - 1
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert last["loss"] < first["loss"] / 4
    assert last["description"] < first["description"] / 4 and last["contrast"] < 0.7 * first["contrast"]
