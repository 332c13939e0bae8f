"""Make ``docs/models.md`` from the matrix of model families: ``python tools/models_table.py > docs/models.md``.

The table is that of the tests (``tests/lm/families.yaml`` and ``newer.yaml``). The numbers are printed by
``tests/lm/measure.py``, which runs in a separate process. It takes two minutes on one CPU thread.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

MATRIX = Path(__file__).parents[1] / "tests" / "lm"

HEAD = """\
# Models

<!-- made by tools/models_table.py: change that, or tests/lm/families.yaml and newer.yaml, not this page -->

This page lists the families that `apmae.capture` reads, and how close it comes to the attention that transformers
itself returns (`attn_implementation="eager"`). Every row was run with a small random model of transformers {version}:
{prompts} prompts of {size} tokens, without padding, padded on the right and padded on the left. In every case
the logits were bit-identical with and without capture. Loading a model repeats the comparison on its own weights and
refuses the model if the two differ.

Families whose attention is square are encoders. What they see of a prompt, and what those answer that have no head for
masked tokens, is in [prompts](prompts.md#encoders).

- **attention**: hybrids have patterns for the layers that attend, under the model's own numbers, and none for the
  others.
- **reached**: how the attention is read. *interface*: the layers call a function of transformers' AttentionInterface
  (sdpa, eager, flash, flex); *own code*: they have attention code of their own and are read where it calls softmax or
  `scaled_dot_product_attention`.
- **runs**: what computed the model's output in this test: sdpa, or eager if transformers has no sdpa for the family.
- **float32**: the largest difference of any one probability, over all pairs of a real query and a real key. The tests
  allow 1e-5.
- **bfloat16**: the share of its attention that a head puts elsewhere than eager does, as a mean over its rows, for the
  worst head. The tests allow 0.02. It is eager that rounds: captured patterns are formed in float32 from the model's
  queries and keys.

| family | for example | attention | reached | runs | float32 | float32, padded | bfloat16 |
|---|---|---|---|---|---|---|---|
"""

REFUSED_HEAD = """
`falcon-alibi` is compared with eager attention that adds ALiBi once, as SDPA does and as the model was trained. The
eager code of transformers 5.23 adds it to a mask that contains it already. A model loaded with eager attention is
captured as it is.

## Refused

`apmae.load_lm` and `apmae.capture` refuse these families, with the reason:

| family | for example | what it says |
|---|---|---|
"""


def supported(name: str, family: dict[str, Any], found: dict[str, float | None]) -> str:
    """The row of a family."""
    cells = (
        f"`{name}`",
        family["examples"],
        family["special"],
        "own code" if family.get("mechanism", "").startswith("own") else "interface",
        "sdpa" if family.get("sdpa", True) else "eager",
        f"{found['float32']:.0e}",
        f"{found['float32_padded']:.0e}",
        "does not run" if found["bfloat16"] is None else f"{found['bfloat16']:.3f}",
    )
    return f"| {' | '.join(cells)} |"


def refused(name: str, family: dict[str, Any], message: str) -> str:
    """The row of a family that cannot be loaded."""
    reason = message.removeprefix(f"cannot capture {family['model']}: ").split("; docs/models.md")[0]
    return f"| `{name}` | {family['examples']} | {reason} |"


def main() -> None:
    files = [yaml.safe_load((MATRIX / name).read_text(encoding="utf-8")) for name in ("families.yaml", "newer.yaml")]
    families, refusals = ({**files[0][part], **files[1][part]} for part in ("families", "refused"))
    result = subprocess.run([sys.executable, MATRIX / "measure.py"], stdout=subprocess.PIPE, check=True)
    found = json.loads(result.stdout)
    print(HEAD.format(version=found["transformers"], prompts=found["prompts"], size=found["size"]), end="")
    for name, family in families.items():
        print(supported(name, family, found["families"][name]))
    print(REFUSED_HEAD, end="")
    for name, family in refusals.items():
        print(refused(name, family, found["refused"][name]))


if __name__ == "__main__":
    main()
