"""Colours of clusters, the same in every figure and page; colour-blind readers can distinguish them too."""

from apmae.schema import NOISE

NOT_CAPTURED = -2
"""What ``locations.prompt_grid`` writes where a head was not captured."""
NO_HEAD = -3
"""What it writes where the model has no head: in a layer without attention, or with fewer heads than others."""
NOISE_COLOR = "#dcdcdc"
NOT_CAPTURED_COLOR = "#ffffff"
NO_HEAD_COLOR = "#8f8f8f"

_DARK = (0, 66, 112)
_OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442")
# Each round mixes the hues with black or white, so that the 21 largest clusters differ; after that colours repeat.
_ROUNDS = ((0, 0.0), (0, 0.45), (255, 0.55))


def cluster_color(cluster: int) -> str:
    """``#rrggbb`` of a cluster; grey for noise, dark grey for no head, white for a head that was not captured."""
    if cluster == NOISE:
        return NOISE_COLOR
    if cluster == NO_HEAD:
        return NO_HEAD_COLOR
    if cluster < NOISE:
        return NOT_CAPTURED_COLOR
    target, share = _ROUNDS[cluster // len(_OKABE_ITO) % len(_ROUNDS)]
    return "#" + "".join(
        f"{round(value + (target - value) * share):02x}" for value in _rgb(_OKABE_ITO[cluster % len(_OKABE_ITO)])
    )


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on a ``#rrggbb`` background (WCAG relative luminance)."""
    linear = [(value / 255 / 12.92) if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in _rgb(color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def shade_of(share: float) -> tuple[str, str]:
    """A colour from white (0) to dark blue (1) as ``#rrggbb``, and the ink that reads on it."""
    color = "#" + "".join(f"{round(255 + (end - 255) * share):02x}" for end in _DARK)
    return color, ink_on(color)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
