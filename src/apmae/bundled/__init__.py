"""What the package carries: a small language model, an AP-MAE, a reference atlas and a Java sample.

All made for this project by the scripts in ``tools/``; found beside this file, wherever the package is installed.
"""

from pathlib import Path

_HERE = Path(__file__).parent


def language_model() -> Path:
    """A StarCoder2-architecture model trained on Java (``tools/train_lm.py``)."""
    return _HERE / "language_model"


def encoder() -> Path:
    """An AP-MAE trained on that model's patterns (``tools/make_bundled.py``)."""
    return _HERE / "encoder"


def atlas() -> Path:
    """An atlas of that model's patterns, fitted with that encoder (``tools/make_bundled.py``)."""
    return _HERE / "atlas"


def java() -> Path:
    """Java written for this project, which no model has seen."""
    return _HERE / "java"
