"""Training an AP-MAE: where patterns come from, the loop, checkpoints.

``apmae.train`` is this package and also the public function of that name (DESIGN section 9), in any order of imports.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from apmae.train.loop import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
