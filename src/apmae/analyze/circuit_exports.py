"""A circuit in the formats of other tools: EAP-IG and MIB's circuit track, and ACDC. Torch-free.

They name the parts of a model as TransformerLens does, with as many heads in every layer. *EAP-IG* and *MIB* read a
graph as JSON: sizes under ``cfg``, and under ``nodes`` for ``input``, ``a0.h1``, ``m0`` and ``logits`` whether each is
in the graph, with its importance; nodes without one (here all that are no heads) always stay in. *ACDC* keeps edges
between hooks, which it reads as (receiver, index, sender, index); here they are the edges that are present, as JSON.

In the circuit are the heads with the largest effects, as many as the shortlist has, without those whose interval has 0
in it. Everything that is no head is in it, because nothing else was patched.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from apmae.analyze.circuits import Head
from apmae.study.circuit import Circuit


def exports(found: Circuit) -> dict[str, bytes]:
    """Files by name, two for each task; none if layers have different numbers of heads."""
    heads_by_layer = found.counts["heads_by_layer"]
    if len(set(heads_by_layer)) != 1:
        return {}
    files: dict[str, bytes] = {}
    for place, task in enumerate(found.tasks["task"].to_pylist()):
        name = re.sub(r"[^\w.-]", "_", task)
        name = f"{name}-{place}" if f"exports/{name}.eap_ig.json" in files else name
        rows = [row for row in found.heads.to_pylist() if row["task"] == task]
        for kind, content in (("eap_ig", eap_graph(rows, found.counts)), ("acdc", acdc_edges(rows, found.counts))):
            files[f"exports/{name}.{kind}.json"] = json.dumps(content).encode()
    return files


def in_circuit(rows: list[dict[str, Any]], size: int) -> set[Head]:
    """The heads with the largest effects, without those whose interval has 0 in it.

    Args:
        rows: of one task, of ``schema.CIRCUIT``.
        size: heads, at most.
    """
    best = [row for row in rows if row["rank"] is not None and row["rank"] <= size]
    return {(row["layer"], row["head"]) for row in best if row["low"] is None or row["low"] > 0 or row["high"] < 0}


def eap_graph(rows: list[dict[str, Any]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """A graph as EAP-IG and MIB read it, with the importance of each head.

    That is the exact effect if all heads were patched, else attribution, so that all heads have the same. Edges have no
    scores, so there are none; the tools add those between the nodes that they keep.

    Args:
        rows: of one task, of ``schema.CIRCUIT``.
        counts: of the circuit stage.
    """
    layers, heads = len(counts["heads_by_layer"]), counts["heads_by_layer"][0]
    every = all(row["effect"] is not None for row in rows)
    inside = in_circuit(rows, counts["shortlist"])
    nodes: dict[str, dict[str, Any]] = {"input": {"in_graph": True}}
    for layer in range(layers):
        for row in rows:
            if row["layer"] == layer:
                score = row["effect"] if every else row["attribution"]
                nodes[f"a{layer}.h{row['head']}"] = {"in_graph": (layer, row["head"]) in inside, "score": score}
        nodes[f"m{layer}"] = {"in_graph": True}
    nodes["logits"] = {"in_graph": True}
    sizes = {"n_layers": layers, "n_heads": heads, "parallel_attn_mlp": counts["parallel"], "d_model": counts["width"]}
    return {"cfg": sizes, "nodes": nodes, "edges": {}}


def acdc_edges(rows: list[dict[str, Any]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """The edges between parts of the circuit, as ACDC names them: receiver, its index, sender, its index.

    An index has null where all is meant: [null, null, 3] is head 3.

    Args:
        rows: of one task, of ``schema.CIRCUIT``.
        counts: of the circuit stage.
    """
    inside = sorted(in_circuit(rows, counts["shortlist"]))
    layers = len(counts["heads_by_layer"])
    whole: list[int | None] = [None]
    senders: list[tuple[str, list[int | None]]] = [("blocks.0.hook_resid_pre", whole)]
    edges: list[list[Any]] = []
    for layer in range(layers):
        own = [[None, None, head] for at, head in inside if at == layer]
        result = f"blocks.{layer}.attn.hook_result"
        for index in own:
            for letter in "qkv":
                read, made = f"blocks.{layer}.hook_{letter}_input", f"blocks.{layer}.attn.hook_{letter}"
                edges += [[read, index, sender, at] for sender, at in senders]
                edges += [[made, index, read, index], [result, index, made, index]]
        written = [(result, index) for index in own]
        read = f"blocks.{layer}.hook_mlp_in"
        edges += [[read, whole, sender, at] for sender, at in (senders if counts["parallel"] else senders + written)]
        edges.append([f"blocks.{layer}.hook_mlp_out", whole, read, whole])
        senders = [*senders, *written, (f"blocks.{layer}.hook_mlp_out", whole)]
    edges += [[f"blocks.{layers - 1}.hook_resid_post", whole, sender, at] for sender, at in senders]
    return {"format": "apmae.circuit.acdc", "edges": edges}
