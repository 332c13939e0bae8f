"""What the masks of a forward show, looked at once for all layers that share them: each look waits for the device."""

from typing import Any

from apmae.lm.rows import Attention, Sight, sight

_KEPT = 4
"""How many masks are remembered: a model has two or three kinds of mask, but each GPU has its own copies."""


class Sights:
    """The masks of one forward."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, bool, Sight]] = []

    def look(self, attention: Attention) -> Sight:
        """What a layer's masks show.

        Raises:
            CaptureError: as of :func:`apmae.lm.rows.sight`.
        """
        if attention.scores is None:
            for source, causal, seen in self._known:
                if source is attention.source and causal == attention.causal:
                    return seen
        seen = sight(attention)
        self.remember(attention, seen)
        return seen

    def remember(self, attention: Attention, seen: Sight) -> None:
        """Keep what a mask shows; and the mask, so that no other object can take its identity."""
        self._known = [*self._known[1 - _KEPT :], (attention.source, attention.causal, seen)]

    def forget(self) -> None:
        """Let go of the masks, after the last layer."""
        self._known.clear()
