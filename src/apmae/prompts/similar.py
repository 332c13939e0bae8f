"""Finds windows that are nearly the same as an earlier one: of copied files, or of spans side by side. Torch-free.

All candidates are compared, not only those that are kept: if the model's answers decided what is drawn next, prompts
could not be built ahead of them. At 0.8, two spans of a long file within about a hundred characters count as the same.
A file that gives nothing new ten times in a row is given up (``sampling.STALE``). MinHash is rensa's, the fastest
according to its authors: 0.1 ms per prompt.
"""

import hashlib
import re
from collections import deque
from collections.abc import Sequence

import numpy as np
from rensa import RMinHash, RMinHashDeduplicator  # pyright: ignore[reportAttributeAccessIssue]

from apmae.prompts.prompt import Prompt
from apmae.seeding import subseed

_WORDS = 5
"""Words and signs per shingle."""
_PERMUTATIONS, _BANDS = 64, 8
_CHARS_PER_TOKEN = 4
_MISSED = 1e-3
"""Pairs at the threshold of :func:`alike` that agree in no band of their sketches, at most."""
_LATEST = 32
"""Windows with the same band that one is compared with, so that a thousand nearly the same cost no million pairs."""
_SPAN = "\ufffc"
_WORD = re.compile(r"\w+|[^\w\s]")


class Windows:
    """The windows seen so far, task by task; about 1.4 kB each.

    Two windows are compared by their runs of five words or signs: how many runs both have, divided by how many either
    has (Jaccard), estimated by MinHash (Broder 1997) with a standard error of 0.05. The place of the span counts as a
    sign.

    Args:
        length: tokens of a window.
        similar: the share, in (0, 1], from which windows count as nearly the same; at 1, only identical ones do.
        seed: of the hashes.
    """

    def __init__(self, length: int, similar: float, seed: int) -> None:
        self._similar = similar
        self._chars = _CHARS_PER_TOKEN * length
        self._seed = subseed(seed, "windows") & 0xFFFFFFFF
        self._seen: dict[str, RMinHashDeduplicator] = {}
        self._same: set[bytes] = set()

    def add(self, prompt: Prompt) -> bool:
        """Remember a prompt's window, unless one that is nearly the same is known.

        Returns:
            Whether it is new among the prompts of its task.
        """
        text = self._text(prompt)
        if self._similar == 1:  # an estimate of 1 does not mean identical, and shingles do not count repeats
            known = len(self._same)
            self._same.add(hashlib.sha256(f"{prompt.task}\x1f{text}".encode()).digest())
            return len(self._same) > known
        sketch = RMinHash(_PERMUTATIONS, self._seed)
        sketch.update(_runs(text))
        seen = self._seen.get(prompt.task)
        if seen is None:
            seen = RMinHashDeduplicator(self._similar, _PERMUTATIONS, True, _BANDS, self._seed)
            self._seen[prompt.task] = seen
        return seen.add(str(seen.len()), sketch)

    def _text(self, prompt: Prompt) -> str:
        """About what a window holds: by the rule of ``fim.window``, but in characters, the same for all models."""
        suffix = prompt.suffix or ""
        right = suffix[: max(self._chars // 2, self._chars - len(prompt.prefix))]
        left = prompt.prefix[-max(self._chars - len(right), 1) :]
        return f"{left}{_SPAN}{prompt.completion}{_SPAN}{right}"


def alike(texts: Sequence[str], similar: float) -> list[tuple[int, int]]:
    """Links between windows that are nearly the same, enough to walk from each to all that are like it.

    Candidates agree in a band of their MinHash sketches; each is then compared exactly, run by run as in
    :class:`Windows`. Time is linear in the windows: where more than 32 agree in one band, the latest 32 are compared.

    Args:
        texts: windows.
        similar: the share of runs, in (0, 1], from which two count as nearly the same; at 1, only identical ones do.

    Returns:
        Pairs of places in ``texts``.
    """
    links: list[tuple[int, int]] = []
    root: list[int] = list(range(len(texts)))
    first: dict[str, int] = {}
    bands: dict[tuple[int, bytes], deque[int]] = {}
    rows = _rows(similar)
    for place, text in enumerate(texts):
        same = first.setdefault(text, place)
        if same != place:
            links.append((same, place))
        if same != place or similar == 1:
            continue
        runs = _runs(text)
        sketch = RMinHash(_PERMUTATIONS, subseed(0, "alike") & 0xFFFFFFFF)
        sketch.update(runs)
        digest = np.array(sketch.digest(), np.uint32).reshape(-1, rows)
        compared = {place}
        for band in ((number, row.tobytes()) for number, row in enumerate(digest)):
            members = bands.setdefault(band, deque(maxlen=_LATEST))
            for other in [own for own in members if own not in compared]:
                compared.add(other)
                ours, theirs = _root(root, place), _root(root, other)
                if ours != theirs and _shared(runs, _runs(texts[other])) >= similar:
                    root[ours] = theirs
                    links.append((other, place))
            members.append(place)
    return links


def _rows(similar: float) -> int:
    """Values of a sketch in a band: as many as miss few enough."""
    return next((rows for rows in (8, 4, 2) if (1 - similar**rows) ** (_PERMUTATIONS / rows) <= _MISSED), 1)


def _runs(text: str) -> list[str]:
    words = _WORD.findall(text)
    return [" ".join(words[at : at + _WORDS]) for at in range(max(len(words) - _WORDS + 1, 1))]


def _shared(runs: Sequence[str], others: Sequence[str]) -> float:
    one, other = set(runs), set(others)
    return len(one & other) / len(one | other)


def _root(root: list[int], place: int) -> int:
    while root[place] != place:
        root[place] = root[root[place]]
        place = root[place]
    return place
