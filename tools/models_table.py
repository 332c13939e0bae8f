"""Make ``docs/models.md`` of the matrix of model families: ``python tools/models_table.py > docs/models.md``.

The table is that of the tests (``tests/lm/families.yaml`` and ``newer.yaml``); the numbers are what
``tests/lm/measure.py`` prints, which runs in a process of its own. It takes two minutes on one CPU thread.
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

Which families `apmae.capture` reads, and how near it comes to the attention that transformers itself returns
(`attn_implementation="eager"`). Every row was run with a small random model of transformers {version}:
{prompts} prompts of {size} tokens, without padding, padded on the right and padded on the left. The logits were
bit-identical with and without capture in each. Loading a model repeats the comparison on its own weights and refuses
it when they differ.

- **attention**: hybrids have patterns of the layers that attend, under the model's own numbers, and of the others none.
- **reached**: *interface*: the layers call a function of transformers' AttentionInterface, whatever it is (sdpa, eager,
  flash, flex); *own code*: they attend by themselves, and are read at their softmax or `scaled_dot_product_attention`.
- **runs**: what the model's output came from here: its sdpa, or eager where transformers has none for the family.
- **float32**: the largest difference of one probability, over all real pairs of query and key; the tests allow 1e-5.
- **bfloat16**: the largest share of its attention that a head puts elsewhere than eager does, a mean over its rows; the
  tests allow 0.02. It is eager that rounds: captured patterns are formed in float32 from the model's queries and keys.

| family | for example | attention | reached | runs | float32 | float32, padded | bfloat16 |
|---|---|---|---|---|---|---|---|
"""

REFUSED_HEAD = """
`falcon-alibi` is compared with eager attention that adds ALiBi once, as SDPA does and as it was trained: that of
transformers 5.23 adds it to a mask which holds it already. A model loaded with eager attention is captured as it is.

## Refused

By `apmae.load_lm` and `apmae.capture`, with the reason:

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
    said = message.removeprefix(f"cannot capture {family['model']}: ").split("; docs/models.md")[0]
    return f"| `{name}` | {family['examples']} | {said} |"


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
