"""The model card of a model without some of its heads."""

from collections.abc import Mapping
from typing import Any

CARD_FILE = "README.md"

_TEXT = """\
---
library_name: transformers
tags:
- apmae
- pruned
---

# {name} without {count} of its {of} attention heads

Made by [apmae](https://pypi.org/project/apmae/) {version} from `{name}` (SHA-256 or commit {fingerprint}). It loads
without apmae:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this-folder")
```

- **Heads removed** (layer.head), the first of the ranking `{ranking}`: {heads}.
- **In their place**: {place}
- **How**: {how}
- **Accuracy** on {prompts} prompts of {groups} groups of files that did not rank the heads: {accuracy}, with all heads
  {original:.3f}. The choice of ranking and number may have been made after seeing these prompts.
- **Size**: {parameters:,} parameters, {before:,} before. **Time** of a forward: {ratio:.2f} of the original's.

What holds on these prompts need not hold on others. `pruning.json` has everything. The license is that of the original.
"""


def card_of(record: Mapping[str, Any]) -> str:
    """The card, from what ``pruning.json`` says."""
    accuracy, size = record["accuracy"], record["size"]
    place = "the head's mean output, in the bias of the output projection." if record["mode"] == "mean" else "nothing."
    if record["biases_added"]:
        place += " The original has no such biases; the config's `attention_bias` is on, and the others are zero."
    if record["no_mean_because"]:
        place += f" No mean: {record['no_mean_because']}."
    how = "they are taken out of the weights."
    if not record["taken_out"]:
        how = f"their columns of the output projection are zero, not taken out: {record['zeroed_because']}."
    shown = f"{accuracy['pruned']:.3f}"
    if accuracy["pruned_low"] is not None:
        shown += f" (95 % interval {accuracy['pruned_low']:.3f} to {accuracy['pruned_high']:.3f})"
    return _TEXT.format(
        name=record["original"]["name"],
        count=len(record["heads"]),
        of=record["of"],
        version=record["apmae"],
        fingerprint=record["original"]["fingerprint"],
        ranking=record["ranking"],
        heads=", ".join(f"{layer}.{head}" for layer, head in record["heads"]),
        place=place,
        how=how,
        prompts=accuracy["prompts"],
        groups=accuracy["groups_of_files"],
        accuracy=shown,
        original=accuracy["original"],
        parameters=size["pruned"]["parameters"],
        before=size["original"]["parameters"],
        ratio=record["seconds_per_forward"]["ratio"],
    )
