"""Exports read back as the tools read them: graphs of the same names are built here and must have every part."""

import json
from math import isnan, nan

import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.circuit_exports import exports, in_circuit
from apmae.schema import CIRCUIT, CIRCUIT_TASKS
from apmae.study.circuit import Circuit

LAYERS, HEADS = 3, 4
INSIDE = {(0, 1), (2, 3)}


def made(every=True, uneven=False, tasks=("ioi", "my/task", "my_task")):
    draw, rows = np.random.default_rng(0), []
    for task in tasks:
        for place in range(LAYERS * HEADS):
            layer, head = divmod(place, HEADS)
            rank = {(0, 1): 1, (2, 3): 2, (1, 0): 3}.get((layer, head), 4 + place)
            row = dict.fromkeys(CIRCUIT.names) | {"task": task, "layer": layer, "head": head, "random": 0.5}
            row |= {"attribution": float(draw.normal()), "flow": 0.1, "shortlisted": rank <= 3}
            if every or rank <= 3:  # the third has an interval with 0 in it
                effect = 3.0 / rank if rank != 3 else 0.1
                row |= {"effect": effect, "low": effect - 0.5, "high": effect + 0.5, "rank": rank, "share": 0.1}
            rows.append(row)
    row = {"pairs": 9, "groups": 9, "clean": 1.0, "counterfactual": 0.0, "fell": 1.0}
    table = pa.Table.from_pylist([dict.fromkeys(CIRCUIT_TASKS.names) | row | {"task": task} for task in tasks])
    counts = {"heads_by_layer": [HEADS] * LAYERS, "shortlist": 3, "width": 32, "parallel": False}
    counts |= {"heads_by_layer": [4, 2, 4]} if uneven else {}
    heads = pa.Table.from_pylist(rows, CIRCUIT)
    return Circuit(heads, heads.slice(0, 0), table.cast(CIRCUIT_TASKS), heads.slice(0, 0), counts)


def graph_of(record):
    """As EAP-IG and MIB: nodes from the sizes alone, scores that are not known until the file gives them."""
    assert {"cfg", "nodes", "edges"} <= record.keys()
    sizes = record["cfg"]
    assert sizes.keys() == {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}
    names = ["input"]
    for layer in range(sizes["n_layers"]):
        names += [*(f"a{layer}.h{head}" for head in range(sizes["n_heads"])), f"m{layer}"]
    scores, kept = dict.fromkeys(names, nan), dict.fromkeys(names, False)
    for name, node in record["nodes"].items():
        if name == "logits":  # always in the graph; it has no score
            continue
        kept[name] = node["in_graph"]  # a KeyError for a name that the tool does not know
        if "score" in node:
            scores[name] = node["score"]
    assert len(scores) == len(kept) == len(names)
    return scores, kept


def top_nodes(scores, count):
    """As they choose a circuit of some size: the largest sizes, and all nodes without a score."""
    known = sorted((name for name in scores if not isnan(scores[name])), key=lambda name: -abs(scores[name]))
    return {*known[:count], *(name for name in scores if isnan(scores[name]))}


def test_eap_ig_and_mib_read_the_importance_of_every_head():
    files = exports(made())
    scores, kept = graph_of(json.loads(files["exports/ioi.eap_ig.json"]))
    assert sum(not isnan(score) for score in scores.values()) == LAYERS * HEADS
    assert scores["a0.h1"] == 3 and scores["a2.h3"] == 1.5 and isnan(scores["m0"]) and isnan(scores["input"])
    assert {name for name, own in kept.items() if own and name[0] == "a"} == {"a0.h1", "a2.h3"}
    assert kept["input"] and kept["m0"]
    assert {"a0.h1", "a2.h3", "input", "m0", "m1", "m2"} == top_nodes(scores, 2)


def test_of_a_shortlist_the_importance_is_attribution():
    found = made(every=False)
    scores, kept = graph_of(json.loads(exports(found)["exports/ioi.eap_ig.json"]))
    rows = found.heads.to_pylist()[: LAYERS * HEADS]
    for row in rows:
        assert scores[f"a{row['layer']}.h{row['head']}"] == row["attribution"]
    assert kept["a0.h1"] and not kept["a1.h0"]


def correspondence():
    """All edges between hooks of a model with MLPs, as ACDC has them, written down from the last layer to the first."""
    every, receivers = set(), [(f"blocks.{LAYERS - 1}.hook_resid_post", (None,))]
    for layer in reversed(range(LAYERS)):
        mlp = f"blocks.{layer}.hook_mlp_out", (None,)
        read = f"blocks.{layer}.hook_mlp_in", (None,)
        every |= {(*receiver, *mlp) for receiver in receivers} | {(*mlp, *read)}
        receivers.append(read)
        inputs = []
        for head in range(HEADS):
            index = None, None, head
            result = f"blocks.{layer}.attn.hook_result", index
            every |= {(*receiver, *result) for receiver in receivers}
            for letter in "qkv":
                own, before = (
                    (f"blocks.{layer}.attn.hook_{letter}", index),
                    (f"blocks.{layer}.hook_{letter}_input", index),
                )
                every |= {(*result, *own), (*own, *before)}
                inputs.append(before)
        receivers += inputs
    return every | {(*receiver, "blocks.0.hook_resid_pre", (None,)) for receiver in receivers}


def test_acdc_has_every_edge_of_the_circuit_and_no_other():
    record = json.loads(exports(made())["exports/ioi.acdc.json"])
    edges = [(to, tuple(to_index), sender, tuple(index)) for to, to_index, sender, index in record["edges"]]
    every = correspondence()
    assert len(edges) == len(set(edges)) and set(edges) <= every

    def inside(name, index):
        return len(index) == 1 or (int(name.split(".")[1]), index[2]) in INSIDE

    expected = {edge for edge in every if inside(*edge[:2]) and inside(*edge[2:])}
    assert set(edges) == expected and len(expected) < len(every) / 2


def test_names_of_files_and_models_that_the_tools_cannot_describe():
    names = sorted(exports(made()))
    assert names == [
        *("exports/ioi.acdc.json", "exports/ioi.eap_ig.json"),
        *("exports/my_task-2.acdc.json", "exports/my_task-2.eap_ig.json"),
        *("exports/my_task.acdc.json", "exports/my_task.eap_ig.json"),
    ]
    assert exports(made(uneven=True)) == {}


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 2), (3, 2)])
def test_heads_whose_interval_has_0_in_it_are_left_out(size, count):
    rows = made().heads.to_pylist()[: LAYERS * HEADS]
    assert len(in_circuit(rows, size)) == count
