"""The page of a :class:`Sheet`: one self-contained HTML file with every pattern's numbers under the pointer.

Tokens are strangers' text. They reach the page escaped by the template or as JSON in a data block, and from there as
``textContent``; the content security policy runs the page's own script by its hash and nothing else.

Numbers are 16-bit steps of log10 p: 8 bits over the same range are off by up to 4 %, which shows in the sums of rows.
48 heads of 256 tokens take 4.5 MB.
"""

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16
from markupsafe import Markup
from matplotlib import colormaps
from numpy import ndarray

from apmae.report.display import data_uri
from apmae.report.page import environment, package_version
from apmae.report.sheet import DECADES, HeadPattern, Sheet, label, printable, shade
from apmae.report.tables import head_name
from apmae.report.thumbnails import picture

LOWEST = -8
"""log10 of the smallest probability that the page tells from smaller ones."""
MOST_BYTES = 20_000_000
"""Numbers that one page carries; heads past it are there as small pictures only."""
_NAMED_HEADS = 12
"""Heads a layer up to which the cells carry names."""


def sheet_page(sheet: Sheet, scale: str = "log", most: int = MOST_BYTES) -> tuple[bytes, int]:
    """The page in UTF-8, and how many heads' numbers it leaves out.

    Args:
        sheet: at least one head; a page of one shows it large, of more a contact sheet that leads to each.
        scale: colours of the small pictures, and of the large one at first.
        most: bytes that the numbers may take.
    """
    count = len(sheet.tokens)
    one = -(-8 * (count * (count + 1) // 2 if sheet.causal else count * count) // 3)  # two bytes an entry, in base64
    room = max(most // one, 1)
    numbered = [entry._replace(name=printable(entry.name)) for entry in sheet.heads]
    data = {
        "labels": [label(token) for token in sheet.tokens],
        "tokens": sheet.texts,
        "causal": sheet.causal,
        "lowest": LOWEST,
        "decades": DECADES,
        "colors": _base64(colormaps["viridis"](np.linspace(0, 1, 255), bytes=True)[:, :3]),
        "heads": [
            {
                "layer": entry.layer,
                "head": entry.head,
                "name": entry.name,
                "codes": _base64(codes(_seen(sheet, entry)).astype("<u2")) if i < room else None,
            }
            for i, entry in enumerate(numbered)
        ],
    }
    script = files("apmae.report").joinpath("templates/show.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    left_out = max(len(numbered) - room, 0)
    heads = sheet.columns
    page = (
        environment()
        .get_template("show.html.j2")
        .render(
            title=f"Attention of {printable(sheet.model)}",
            about=f"{sheet.size}: \u201c{sheet.excerpt}\u201d",
            policy=Markup(f"script-src 'sha256-{digest}'; "),  # noqa: S704
            scale=scale,
            named=any(entry.name for entry in numbered),
            rows=_rows(sheet, numbered, scale) if len(numbered) > 1 else [],
            columns=heads,
            whole=bool(sheet.heads_by_layer),
            dense=len(heads) > _NAMED_HEADS,
            cell_width=52 if len(heads) > _NAMED_HEADS else 96,
            left_out=_left_out(numbered[room:]) if left_out else "",
            stored=f"Probabilities are kept as 16-bit steps of log10 p from {LOWEST} to 0: within 0.02%, "
            f"those under 1e{LOWEST} as 1e{LOWEST}.",
            data=Markup(_json(data)),  # noqa: S704
            script=Markup(script),  # noqa: S704
            version=package_version(),
        )
    )
    return page.encode("utf-8", "backslashreplace"), left_out


def codes(probabilities: Float[ndarray, "..."]) -> UInt16[ndarray, "..."]:
    """``1 + 65534 * (1 - log10(p) / LOWEST)``, rounded; 0 for p = 0, 1 for p under the lowest, 65535 for p = 1."""
    seen = probabilities > 0
    logs = np.log10(probabilities, where=seen, out=np.zeros(probabilities.shape, np.float32))
    steps = np.clip(np.rint(65534 * (1 - logs / LOWEST)), 0, 65534)
    return np.where(seen, steps + 1, 0).astype(np.uint16)


def _seen(sheet: Sheet, entry: HeadPattern) -> Float[ndarray, " e"]:
    """Entries row by row; of a causal pattern those on and below the diagonal."""
    return entry.probabilities[np.tri(len(sheet.tokens), dtype=bool)] if sheet.causal else entry.probabilities.ravel()


def _rows(sheet: Sheet, entries: list[HeadPattern], scale: str) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Rows of the contact sheet by their layers; None where there is no head, and nothing where no layer attends."""
    cells = {}
    for i, entry in enumerate(entries):
        name = head_name(entry.layer, entry.head)
        title = f"{name}: {entry.name}" if entry.name else name
        small = data_uri(picture(shade(entry.probabilities, scale)))
        cells[entry[:2]] = {"number": i, "head": name, "name": entry.name, "title": title, "picture": small}
    return [
        (
            str(first) if first == last else f"{first}-{last}",
            [cells.get((first, head)) for head in sheet.columns] if sheet.attends(first) else [],
        )
        for first, last in sheet.bands
    ]


def _left_out(entries: list[HeadPattern]) -> str:
    first, last = (head_name(*entries[i][:2]) for i in (0, -1))
    return (
        f"The numbers of the first heads fill this page; those of {len(entries)} heads, {first} to {last}, were left "
        "out and are here as small pictures only: name them with --head for a page of their own."
    )


def _base64(values: ndarray) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _json(data: dict[str, Any]) -> str:
    """JSON that is safe inside a script element: ASCII, and nothing in it can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
