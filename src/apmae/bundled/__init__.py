"""What the package carries: small language models, an AP-MAE, a reference atlas and a Java sample.

Everything was made for this project by the scripts in ``tools/``, and lies beside this file.
"""

from hashlib import sha256
from pathlib import Path

_HERE = Path(__file__).parent

LANGUAGE_MODELS = {
    "bundled-small": _HERE / "language_model_small",
    "bundled-medium": _HERE / "language_model_medium",
    "bundled": _HERE / "language_model",
}
"""Three sizes of a small StarCoder2 with one tokenizer, trained on the same Java (``tools/train_lm.py``): 3 layers of 4
heads, 4 of 6, and 6 of 8."""


def language_model(name: str = "bundled") -> Path:
    """One of :data:`LANGUAGE_MODELS`, by default the largest."""
    return LANGUAGE_MODELS[name]


def name_of(source: str) -> str:
    """The name of a language model: its key here if it is bundled, else the name of its folder or repository."""
    return next((name for name, folder in LANGUAGE_MODELS.items() if str(folder) == source), Path(source).name)


def encoder() -> Path:
    """An AP-MAE trained on the largest model's patterns (``tools/make_bundled.py``)."""
    return _HERE / "encoder"


def descriptor(causal: bool = True) -> Path:
    """Constants by which descriptors of causal or of square patterns are standardised and whitened
    (``tools/make_bundled.py``)."""
    return _HERE / ("descriptor.safetensors" if causal else "descriptor_square.safetensors")


def constants() -> str:
    """SHA-256 of the descriptor's constants: representations made with others cannot be compared. The constants of an
    encoder's CLS follow from its weights and from the grammar that these were fitted on.
    """
    return sha256(b"".join(descriptor(causal).read_bytes() for causal in (True, False))).hexdigest()


def atlas() -> Path:
    """An atlas of the largest model's patterns, fitted with the bundled encoder (``tools/make_bundled.py``)."""
    return _HERE / "atlas"


def java() -> Path:
    """Java written for this project, which no model has seen."""
    return _HERE / "java"
