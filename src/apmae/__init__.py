"""Find, name and tag the attention patterns of a language model's heads.

The public names below load their module on first use, so that ``import apmae`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apmae.atlas.atlas import Atlas as Atlas
    from apmae.engine.show import show as show
    from apmae.engine.tag import tag as tag
    from apmae.errors import ApmaeError as ApmaeError
    from apmae.lm.edit import edit as edit
    from apmae.lm.load import load_lm as load_lm
    from apmae.lm.tap import capture as capture
    from apmae.model.mae import APMAE as APMAE
    from apmae.model.represent import represent as represent
    from apmae.patterns.patterns import Patterns as Patterns
    from apmae.patterns.scores import score as score
    from apmae.train.loop import train as train

_ROOMS = {
    "APMAE": "model.mae",
    "ApmaeError": "errors",
    "Atlas": "atlas.atlas",
    "Patterns": "patterns.patterns",
    "capture": "lm.tap",
    "edit": "lm.edit",
    "load_lm": "lm.load",
    "represent": "model.represent",
    "score": "patterns.scores",
    "show": "engine.show",
    "tag": "engine.tag",
}
__all__ = [
    "APMAE",
    "ApmaeError",
    "Atlas",
    "Patterns",
    "capture",
    "edit",
    "load_lm",
    "represent",
    "score",
    "show",
    "tag",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "train":  # a package that can be called
        return import_module("apmae.train")
    if name not in _ROOMS:
        raise AttributeError(f"module 'apmae' has no attribute {name!r}")
    return getattr(import_module(f"apmae.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
