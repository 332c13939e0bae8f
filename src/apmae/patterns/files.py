"""Pattern files: our own (safetensors), and those of other tools that hold probabilities. Nothing is ever unpickled.

Our file holds ``log_patches`` in its dtype, ``prompt``, ``layer`` and ``head`` as int64, and ``texts``, the bytes of a
JSON object with tokens, lengths and rows by prompt number. Its metadata has one entry, ``apmae``: a JSON object with
the artifact's kind and format, size, causal and reach. Reading a file gives the arguments of ``Patterns``.

Texts are a tensor and not metadata because safetensors refuses a header over 100 MB, which the tokens of long prompts
can reach. In another tool's array of three axes each pattern is its own prompt, as in ``from_probabilities``; layers
and heads are read from arrays of four or five axes only. Whether they are causal is found from the data.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apmae.artifacts import write_through
from apmae.errors import CaptureError
from apmae.patterns import probabilities
from apmae.patterns.stored import SUFFIXES, expect_patterns

FORMAT = 1
"""Version of our own files, raised when older code cannot read the new ones."""
NAMES = ("attention", "attentions", "patterns", "probabilities")
"""Names that the array of probabilities may have in a file with several arrays."""
_SUFFIX = ".safetensors"
_PLACES, _TEXTS, _ABOUT = ("prompt", "layer", "head"), ("tokens", "lengths", "rows"), ("size", "causal", "reach")
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, SafetensorError)
"""What the readers raise for files that are cut short, damaged, pickled or of another kind."""
_SLACK = 1e-2
"""How far rounding may put a log probability above 0."""


def save(path: str | Path, fields: Mapping[str, Any]) -> None:
    """See :meth:`Patterns.save`; the fields are the arguments of ``Patterns``."""
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise CaptureError(f"expected a path that ends in {_SUFFIX}, got {path}; patterns are saved as safetensors")
    texts = {name: fields[name] for name in _TEXTS}
    tensors = {
        "log_patches": fields["log_patches"].detach().cpu().contiguous(),
        **{name: torch.from_numpy(np.array(fields[name], np.int64)) for name in _PLACES},
        # Not in the metadata: a safetensors header ends at 100 MB.
        "texts": torch.frombuffer(bytearray(json.dumps(texts, sort_keys=True).encode()), dtype=torch.uint8),
    }
    about = {"artifact": "patterns", "format": FORMAT, **{name: fields[name] for name in _ABOUT}}
    # One entry: safetensors writes several in no fixed order.
    metadata = {"apmae": json.dumps(about, sort_keys=True)}
    write_through(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load(path: str | Path, *, patch: int, causal: bool | None) -> dict[str, Any]:
    """The arguments of ``Patterns``, read from a file; use it within :func:`naming`.

    Args:
        path: a file that :meth:`Patterns.load` takes.
        patch: side of the patches that another tool's probabilities are cut into.
        causal: whether those are causal; None finds out.

    Raises:
        CaptureError: as for :meth:`Patterns.load`.
    """
    content = _READERS[Path(path).suffix.lower()](Path(path))
    return content if isinstance(content, dict) else _of_probabilities(content, patch, causal)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn every error about a file's content into one line that names the file.

    Raises:
        CaptureError: for each of them, and if there is no such file or its name says it is of another kind.
    """
    path = Path(path)
    expect_patterns(path)
    try:
        yield
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CaptureError(
            f"expected a whole {path.suffix} file of numbers, {path} cannot be read ({reason}); save it again, "
            "without pickled objects"
        ) from None


def _of_probabilities(array: ndarray | Tensor, patch: int, causal: bool | None) -> dict[str, Any]:
    array = probabilities.as_array(array)
    shape = tuple(array.shape)
    if not 3 <= len(shape) <= 5 or shape[-1] != shape[-2] or not shape[-1]:
        raise CaptureError(
            f"expected probabilities of shape (n, L, L), (layers, heads, L, L) or (prompts, layers, heads, L, L), got "
            f"{shape}; save one of them"
        )
    flat = array.reshape(-1, *shape[-2:])
    if causal is None:
        causal = probabilities.is_causal(flat)
    # One leading axis counts prompts; two are layers and heads of a single prompt.
    axes = (shape[0], 1, 1) if len(shape) == 3 else (1, *shape[:-2])[-3:]
    places = zip(_PLACES, (axis.reshape(-1) for axis in np.indices(axes)), strict=True)
    logs = probabilities.log_patches(flat, patch, causal)
    return {"log_patches": logs, "size": shape[-1], "causal": causal, **dict(places)}


def _read_npy(path: Path) -> ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> ndarray:
    # Opened here: np.load would leave closing a file that is cut short to the garbage collector.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return file[_chosen(file.files)]


def _read_safetensors(path: Path) -> dict[str, Any] | Tensor:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "apmae" not in metadata:
            return file.get_tensor(_chosen(list(file.keys())))
        about = json.loads(metadata["apmae"])
        kind, version = (about.get("artifact"), about.get("format")) if isinstance(about, dict) else (None, None)
        if (kind, version) != ("patterns", FORMAT):
            raise CaptureError(
                f"expected patterns of format {FORMAT}, found {kind or 'another artifact'} of format {version}; give "
                "another file, or save the patterns again with this version"
            )
        tensors = {name: file.get_tensor(name) for name in ("log_patches", *_PLACES, "texts")}
    return _fields(about, tensors)


def _fields(about: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    logs, count = tensors["log_patches"], len(tensors["log_patches"])
    places = {name: tensors[name].numpy().astype(np.int64) for name in _PLACES}
    if logs.ndim != 4 or not logs.is_floating_point() or any(place.shape != (count,) for place in places.values()):
        raise CaptureError(f"expected n log patches and the prompt, layer and head of each, got {tuple(logs.shape)}")
    if count and not float(logs.amax()) < _SLACK:  # false for NaN too
        raise CaptureError("expected log probabilities, at most 0, got others; the file was written by something else")
    texts = json.loads(tensors["texts"].numpy().tobytes())
    known = {
        name: None if texts[name] is None else {int(number): value for number, value in texts[name].items()}
        for name in _TEXTS
    }
    return {"log_patches": logs, **places, **known, **{name: about[name] for name in _ABOUT}}


def _chosen(names: list[str]) -> str:
    """The name of the array that holds the probabilities."""
    if len(names) == 1:
        return names[0]
    fitting = [name for name in names if name in NAMES]
    if len(fitting) != 1:
        raise CaptureError(
            f"expected one array, or one named {', '.join(NAMES)}, found {', '.join(sorted(names)) or 'none'}; "
            "save the probabilities alone"
        )
    return fitting[0]


_READERS = dict(zip(SUFFIXES, (_read_npy, _read_npz, _read_safetensors), strict=True))
