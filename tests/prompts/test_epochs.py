"""Prompts to train on, epoch by epoch: the same whenever an epoch is asked for, drawn no further than is needed."""

import threading
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import ConfigError, SourceError, TrainingError
from apmae.prompts import epochs as room
from apmae.prompts.draw import build_prompts
from apmae.prompts.epochs import DrawnPrompts, Epochs, ListedPrompts, files_of
from apmae.prompts.prompt import split_of

CONFIG = PromptsConfig(per_task=40, tasks=("random", "eol"), split="train")


@pytest.fixture(scope="module")
def files():
    return parse_source("bundled").handles((".java",))


def ids(prompts):
    return [prompt.id for prompt in prompts]


def small(tmp_path, lines=6, name="A"):
    """A source of one short file, whose spans run out."""
    body = "".join(f"    int field{number} = {number} + {number * 7};\n" for number in range(lines))
    (tmp_path / f"{name}.java").write_text(f"class {name} {{\n{body}}}\n")
    return parse_source(str(tmp_path)).handles((".java",))


# -- drawn -------------------------------------------------------------------------------------------------------------


def test_the_first_epoch_is_what_the_prompts_stage_draws(files):
    """Held against drawing them all at once."""
    drawn = DrawnPrompts(files, CONFIG, tokenizer=None)
    assert isinstance(drawn, Epochs)
    at_once, counts = build_prompts(files, CONFIG)
    assert ids(drawn.epoch(0)) == ids(at_once)
    assert drawn.rejected == counts["rejected"]
    assert drawn.counts() == {"files": len(files)} and drawn.size is None


def test_an_epoch_is_the_same_whenever_it_is_asked_for(files):
    drawn = DrawnPrompts(files, CONFIG, tokenizer=None)
    first, second = ids(drawn.epoch(0)), ids(drawn.epoch(1))
    assert ids(drawn.epoch(1)) == second and ids(drawn.epoch(0)) == first
    assert ids(DrawnPrompts(files, CONFIG, tokenizer=None).epoch(1)) == second


def test_epochs_draw_other_spans_in_another_order(files):
    drawn = DrawnPrompts(files, CONFIG, tokenizer=None)
    first, second = list(drawn.epoch(0)), list(drawn.epoch(1))
    assert (
        Counter(prompt.task for prompt in first)
        == Counter(prompt.task for prompt in second)
        == {"random": 40, "eol": 40}
    )
    assert len(set(ids(first)) & set(ids(second))) < 10
    assert [prompt.path for prompt in first] != [prompt.path for prompt in second]
    assert {split_of(prompt.repository or prompt.path) for prompt in first + second} == {"train"}


def test_an_epoch_ends_where_the_files_give_no_more(tmp_path):
    files = small(tmp_path)
    config = CONFIG.model_copy(update={"split": "all", "per_task": 1000})
    drawn = DrawnPrompts(files, config, tokenizer=None)
    every = list(drawn.epoch(0))
    assert 2 <= len(every) < 100
    assert ids(every) == ids(build_prompts(files, config)[0])
    assert all(list(drawn.epoch(number)) for number in (1, 2))


def test_no_more_is_drawn_than_is_asked_for_and_a_chunk_ahead(files, monkeypatch):
    monkeypatch.setattr(room, "_AHEAD", 8)
    made, original = [], room.candidates
    monkeypatch.setattr(room, "candidates", lambda *a, **b: (made.append(p) or p for p in original(*a, **b)))
    epoch = DrawnPrompts(files, CONFIG, tokenizer=None).epoch(0)
    assert len(list(islice(epoch, 3))) == 3
    epoch.close()
    assert len(made) <= 16
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prompts")]


def test_closing_an_epoch_that_has_not_begun_is_nothing(files):
    DrawnPrompts(files, CONFIG, tokenizer=None).epoch(0).close()


def test_what_was_left_out_is_that_of_the_first_epoch(tmp_path):
    files = small(tmp_path)
    (tmp_path / "Empty.java").write_text(" ")
    (tmp_path / "Latin.java").write_bytes(b'class L { String s = "\xe9"; }')
    files = parse_source(str(tmp_path)).handles((".java",))
    drawn = DrawnPrompts(files, CONFIG.model_copy(update={"split": "all"}), tokenizer=None)
    list(drawn.epoch(0))
    after = dict(drawn.rejected)
    assert (after["empty"], after["not_utf8"]) == (1, 1)
    list(drawn.epoch(1))
    assert drawn.rejected == after, "files that cannot be used are counted once"


def test_files_without_a_span_are_refused_with_the_reasons(tmp_path):
    (tmp_path / "Empty.java").write_text(" ")
    files = parse_source(str(tmp_path)).handles((".java",))
    drawn = DrawnPrompts(files, CONFIG.model_copy(update={"split": "all"}), tokenizer=None)
    with pytest.raises(SourceError, match=r"expected prompts from 1 files, found none \(empty: 1\); give other source"):
        next(drawn.epoch(0))


# -- of several processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_file_of_the_split_is_one_processs(files, processes):
    parts = [files_of(files, CONFIG, process=number, processes=processes) for number in range(processes)]
    paths = [file.path for part in parts for file in part]
    assert sorted(paths) == sorted(file.path for file in files if split_of(file.repository or file.path) == "train")
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_too_few_files_are_refused(files, tmp_path):
    own = files_of(files, CONFIG)
    with pytest.raises(ConfigError, match=f"at least {len(own) + 1} files, one per process, got {len(own)}; give more"):
        files_of(files, CONFIG, process=0, processes=len(own) + 1)
    few = small(tmp_path)
    other = next(split for split in ("train", "atlas", "held_out") if split != split_of(few[0].path))
    with pytest.raises(SourceError, match=f"expected files of the split '{other}', none of 1 is; give more source"):
        files_of(few, CONFIG.model_copy(update={"split": other}))


# -- listed ------------------------------------------------------------------------------------------------------------


def test_listed_prompts_come_once_an_epoch_in_new_orders(files):
    prompts, _ = build_prompts(files, CONFIG)
    listed = ListedPrompts(prompts, seed=3, outcome="any")
    assert isinstance(listed, Epochs)
    orders = [ids(listed.epoch(number)) for number in range(3)]
    assert all(sorted(order) == sorted(ids(prompts)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert orders[1] == ids(ListedPrompts(prompts, seed=3, outcome="any").epoch(1))
    assert orders[0] != ids(ListedPrompts(prompts, seed=4, outcome="any").epoch(0))
    assert (listed.size, listed.counts(), listed.rejected) == (len(prompts), {"prompts": len(prompts)}, {})


def test_no_listed_prompts_are_refused(files):
    with pytest.raises(ConfigError, match="expected prompts to train on, got none"):
        ListedPrompts([], seed=0, outcome="any")
    with pytest.raises(TrainingError, match="got 0 of"):
        wrong = [replace(prompt, outcome="incorrect") for prompt in build_prompts(files, CONFIG)[0]]
        ListedPrompts(wrong, seed=0, outcome="correct")
