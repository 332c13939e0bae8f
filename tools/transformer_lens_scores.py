"""The scores of TransformerLens' three head detectors on the bundled language model, as a fixture for the tests.

TransformerLens pins other versions than this package, so it needs a separate environment:

    python -m venv tl && tl/bin/pip install torch==2.13.0 transformers==5.23.0 transformer_lens==4.3.0
    tl/bin/pip install . && tl/bin/python tools/transformer_lens_scores.py

Writes ``tests/patterns/fixtures/transformer_lens.json``: for each input its token ids, and for each detector and error
measure one score per head, (layers, heads). Also prints how far our captured patterns are from TransformerLens' own.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformer_lens.head_detector import HEAD_NAMES, detect_head  # pyright: ignore[reportMissingImports]
from transformer_lens.model_bridge.sources._bridge_builder import (  # pyright: ignore[reportMissingImports]
    build_bridge_from_module,
)

from apmae import bundled
from apmae.lm.load import load_lm
from apmae.lm.tap import capture

OUT = Path(__file__).parents[1] / "tests" / "patterns" / "fixtures" / "transformer_lens.json"
MEASURES = ("mul", "abs")
_LENGTH = 128


class OnTokens:
    """The bridge as ``detect_head`` uses it, but with token ids: the text of random tokens gives other tokens."""

    def __init__(self, bridge: Any) -> None:
        self._bridge, self.cfg, self.run_with_cache = bridge, bridge.cfg, bridge.run_with_cache

    def to_tokens(self, ids: Tensor) -> Tensor:
        """(1, t) token ids, as given."""
        return ids


def inputs() -> dict[str, list[int]]:
    """Java of the bundled sample, and random tokens that are repeated once."""
    tokenizer = load_lm().backend_tokenizer
    text = (bundled.java() / "ledger" / "Money.java").read_text(encoding="utf-8")
    half = np.random.default_rng(0).integers(5, 4096, (_LENGTH - 1) // 2).tolist()
    java = tokenizer.encode(text, add_special_tokens=False).ids
    return {"java": [0, *java[: _LENGTH - 1]], "repeated": [0, *half, *half]}


def main() -> None:
    lm = load_lm()
    config = lm.model.config
    captured = {}
    for name, ids in inputs().items():
        with capture(lm.model) as tap, torch.no_grad():
            lm.model(torch.tensor([ids]), use_cache=False)
        captured[name] = tap.patterns.probabilities().reshape(lm.num_layers, lm.num_heads, len(ids), len(ids))
    # The bridge changes the model it is given, so our capture ran first.
    bridge = OnTokens(build_bridge_from_module(lm.model, "Starcoder2ForCausalLM", hf_config=config))
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("transformer_lens", "torch", "transformers")},
        "inputs": {},
    }
    for name, ids in inputs().items():
        with torch.no_grad():
            tokens = torch.tensor([ids])
            _, cache = bridge.run_with_cache(tokens, remove_batch_dim=True)
            scores = {
                detector: {
                    measure: [
                        [round(score, 7) for score in row]
                        for row in detect_head(bridge, tokens, detector, cache=cache, error_measure=measure).tolist()
                    ]
                    for measure in MEASURES
                }
                for detector in HEAD_NAMES
            }
        theirs = torch.stack([cache["pattern", layer, "attn"] for layer in range(lm.num_layers)]).numpy()
        print(f"{name}: largest difference of a probability {np.abs(theirs - captured[name]).max():.2g}")
        found["inputs"][name] = {"ids": ids, "scores": scores}
    OUT.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
