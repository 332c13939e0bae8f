"""Runs the whole matrix and prints what it finds as one JSON object: ``python tests/lm/measure.py``.

``tools/models_table.py`` makes a page of it. It takes a minute on one CPU thread, and stops at the first family that
the tests would not accept.
"""

import json
import sys
import tempfile

import torch
import transformers
from families import FAMILIES, REFUSED
from matrix import BATCH, PADDINGS, SIZE, Run, refused_model, run

import apmae
from apmae.errors import ApmaeError


def check(name: str, found: Run) -> Run:
    """The run, if its logits did not change."""
    if not torch.equal(found.captured, found.plain):
        sys.exit(f"{name}: capture changes the logits")
    return found


def supported(name: str) -> dict[str, float | None]:
    """How far a family's patterns are from eager's."""
    differences = [check(name, run(name, padding)).difference for padding in PADDINGS]
    half = PADDINGS if FAMILIES[name].half else ()
    moved = [float(check(name, run(name, padding, torch.bfloat16)).moved.max()) for padding in half]
    if max(differences) > 1e-5:
        sys.exit(f"{name} differs from eager by {max(differences):.1e}")
    return {"float32": differences[0], "float32_padded": max(differences[1:]), "bfloat16": max(moved, default=None)}


def refused(name: str) -> str:
    """What loading a family says."""
    with tempfile.TemporaryDirectory() as folder:
        refused_model(name).save_pretrained(folder)
        try:
            apmae.load_lm(folder)
        except ApmaeError as error:
            return str(error)
    sys.exit(f"{name} is not refused")


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found = {
        "transformers": transformers.__version__,
        "prompts": BATCH,
        "size": SIZE,
        "families": {name: supported(name) for name in FAMILIES},
        "refused": {name: refused(name) for name in REFUSED},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
