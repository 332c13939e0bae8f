"""Numbers of a row against loops over its keys, on windows of real text in every order of contexts."""

import math

import numpy as np
import pytest
import torch

from apmae.patterns.answer_row import describe_rows
from apmae.patterns.tokens import token_kind
from apmae.prompts.fim import window
from apmae.prompts.sentinels import Sentinels
from apmae.schema import COPIES, ROW_NUMBERS

PREFIX, SUFFIX = "int total = size;\nint size = total; // size\n  return total + ", ";\n}\nint size;\n"


def windows(lm):
    own = lm.sentinels
    other = Sentinels("", own.between, own.before, own.after, suffix_first=True)
    return {
        "infill": window(lm.backend_tokenizer, PREFIX, "size", SUFFIX, length=64, sentinels=own),
        "suffix first": window(lm.backend_tokenizer, PREFIX, "size", SUFFIX, length=64, sentinels=other, bos=0),
        "left": window(lm.backend_tokenizer, PREFIX, "size", None, length=64, sentinels=None),
        "nothing before": window(lm.backend_tokenizer, "", "size", SUFFIX, length=64, sentinels=own),
    }


def by_loops(row, cut, predicted):
    """Each name of the documentation, key by key."""
    found = dict.fromkeys([*(f"row_{name}" for name in ROW_NUMBERS), *(f"copy_{name}" for name in COPIES)], 0.0)
    position = len(cut.ids) - 1
    in_sentinels = {place for run in cut.sentinels for place in run}
    last = cut.ids[max(cut.prefix)] if len(cut.prefix) else None
    for key, p in enumerate(row):
        token, text = cut.ids[key], cut.tokens[key]
        found["row_entropy"] -= p * math.log(p) if p > 0 else 0
        found["row_largest"] = max(found["row_largest"], p)
        names = [f"row_kind_{token_kind(text)}"]
        names += ["row_first"] * (key == 0) + ["row_self"] * (key == position)
        names += ["row_prefix"] * (key in cut.prefix) + ["row_suffix"] * (key in cut.suffix)
        names += ["row_sentinels"] * (key in in_sentinels) + ["row_newline"] * ("\n" in text)
        names += [f"row_within_{far}" for far in (1, 4, 16) if 1 <= position - key <= far]
        copied = last is not None and key > 0 and cut.ids[key - 1] == last
        names += ["copy_predicted"] * (token == predicted) + ["copy_after_last"] * copied
        names += ["copy_predicted_after_last"] * (copied and token == predicted) + ["copy_last"] * (token == last)
        for name in names:
            found[name] += p
    return found


@pytest.mark.parametrize("order", ["infill", "suffix first", "left", "nothing before"])
def test_every_number_is_a_sum_over_its_keys(bundled_lm, order):
    cut = windows(bundled_lm)[order]
    predicted = bundled_lm.backend_tokenizer.encode(" size", add_special_tokens=False).ids[0]
    scores = 3 * torch.randn(5, len(cut.ids), generator=torch.Generator().manual_seed(0))
    scores[1, 4:] = -torch.inf
    scores[2, :-1] = -torch.inf
    logs = scores.log_softmax(-1)
    found = describe_rows(logs, cut, predicted)
    assert list(found) == [*(f"row_{name}" for name in ROW_NUMBERS), *(f"copy_{name}" for name in COPIES)]
    for head, row in enumerate(logs.double().exp().tolist()):
        for name, value in by_loops(row, cut, predicted).items():
            assert found[name][head] == pytest.approx(value, abs=1e-5), name
    assert found["row_entropy"][2] == 0 and found["row_self"][2] == 1
    kinds = [values for name, values in found.items() if name.startswith("row_kind_")]
    np.testing.assert_allclose(np.sum(kinds, axis=0), 1, atol=1e-5)
    parts = sum(found[f"row_{name}"] for name in ("prefix", "suffix", "sentinels"))
    np.testing.assert_allclose(parts, 1, atol=1e-5)
    assert bool(found["copy_last"][0] > 0) == (order != "nothing before")
    assert found["copy_predicted"][0] > 0


def test_a_row_with_a_sink_sums_to_less(bundled_lm):
    cut = windows(bundled_lm)["left"]
    logs = torch.full((1, len(cut.ids)), math.log(0.5 / len(cut.ids)))
    found = describe_rows(logs, cut, 5)
    assert found["row_prefix"][0] == pytest.approx(0.5)
