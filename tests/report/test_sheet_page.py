"""The page of a sheet, read as text and used in a real browser."""

import io
import json
import re
from base64 import b64decode

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from apmae.report.sheet import HeadPattern, Sheet, shade
from apmae.report.sheet_page import LOWEST, codes, sheet_page

EVIL = (
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "\"'`&lt;&amp;",
    "\u2028\u2029",
    "\x00\x1b\r",
    "\ud800",
    "\u202e",
    "{{ 7 * 7 }}",
    "\n",
    "__proto__",
    "",
)


def probabilities(count, causal, seed=0):
    scores = np.random.default_rng(seed).normal(size=(count, count)) * 3
    scores = np.where(np.tri(count, dtype=bool) | (not causal), scores, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def make(count=12, causal=True, layers=2, heads=3, tokens=None, name="local band", model="a model"):
    entries = tuple(
        HeadPattern(layer, head, name, probabilities(count, causal, 10 * layer + head))
        for layer in range(layers)
        for head in range(heads)
    )
    return Sheet(model, tuple(tokens or (f"t{i}" for i in range(count))), entries, causal)


def data_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a sheet's page from its file; the test fails if the page fetches or complains about anything."""

    def load(sheet, fragment="", **options):
        file = tmp_path / "show.html"
        file.write_bytes(sheet_page(sheet, **options)[0])
        return browser.open(file, fragment)

    yield load
    assert browser.complaints == []
    assert set(browser.fetched) <= {"file", "data"}
    browser.prefer()


def shown(browser):
    """The query, key and probability that the page shows."""
    found = re.search(r"\((\d+)\) \u2192 key .*?\((\d+)\): \u2264? ?([-\d.e]+)", browser.text("#readout"), re.S)
    return int(found[1]), int(found[2]), float(found[3])


# -- as text -----------------------------------------------------------------------------------------------------------


def test_codes_are_as_precise_as_promised():
    values = np.concatenate([np.float32([0, 1, 1e-30, 1e-9, 1e-8]), 10 ** np.linspace(-7.9, 0, 5000)]).astype("f4")
    found = codes(values)
    assert found.dtype == np.uint16
    assert found[:4].tolist() == [0, 65535, 1, 1]
    read = 10 ** (LOWEST * (65535 - found[5:].astype(float)) / 65534)
    assert np.abs(read / values[5:] - 1).max() < 2e-4


@pytest.mark.parametrize("causal", [True, False])
def test_the_page_carries_every_probability(causal):
    sheet = make(causal=causal)
    data = data_of(sheet_page(sheet)[0].decode())
    assert [(entry["layer"], entry["head"]) for entry in data["heads"]] == [entry[:2] for entry in sheet.heads]
    for entry, pattern in zip(data["heads"], sheet.heads, strict=True):
        read = np.frombuffer(b64decode(entry["codes"]), "<u2").astype(float)
        read = np.where(read > 0, 10 ** (LOWEST * (65535 - read) / 65534), 0)
        wanted = [p for q, row in enumerate(pattern.probabilities) for p in (row[: q + 1] if causal else row)]
        np.testing.assert_allclose(read, wanted, rtol=2e-4, atol=10**LOWEST)


def test_the_page_fetches_nothing_and_runs_its_own_script_only():
    page = sheet_page(make())[0].decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]{44}'; "
        r"base-uri 'none'; form-action 'none'",
        policy,
    )
    assert not re.search(r"https?://|@import|url\(|\bfetch\(|XMLHttp|innerHTML|\son\w+=", page)
    assert len(re.findall("<script", page)) == 2


def test_a_contact_sheet_of_48_heads_and_256_tokens_stays_small():
    page, left_out = sheet_page(make(256, layers=6, heads=8))
    assert left_out == 0
    assert len(page) < 5_000_000


def test_what_does_not_fit_is_left_out_and_mentioned():
    sheet = make(64, layers=3, heads=4)
    one = 4 / 3 * 64 * 65
    page, left_out = sheet_page(sheet, most=int(5.5 * one))
    text = page.decode()
    assert left_out == 7
    assert [entry["codes"] is None for entry in data_of(text)["heads"]] == [False] * 5 + [True] * 7
    assert "Those of 7 heads, 1.1 to 2.3, were left out" in text
    assert text.count('alt="pattern of head ') == 12
    assert sheet_page(sheet, most=1)[1] == 11, "one head always fits"


def test_hostile_text_stays_text():
    page = sheet_page(make(len(EVIL), tokens=EVIL, name=EVIL[0], model=EVIL[0]))[0].decode()
    assert len(re.findall("<script", page, re.I)) == 2
    assert len(re.findall("</script", page, re.I)) == 2
    assert "<img src=x" not in page
    assert "<!--" not in page
    assert not set("\x00\x1b\r\u2028\u2029\u202e") & set(page)
    assert data_of(page)["tokens"][0] == EVIL[0]


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_pointing_shows_tokens_and_probability(opened, causal):
    sheet = make(causal=causal, layers=1, heads=1)
    page = opened(sheet)
    assert page.text("#head") == "head 0.0: local band"
    for query, key in ((0, 0), (7, 3), (11, 11), (2, 9)):
        page.point("#plot", (key + 0.5) / 12, (query + 0.5) / 12)
        readout = shown(page)
        assert readout[:2] == (query, key)
        assert readout[2] == pytest.approx(float(sheet.heads[0].probabilities[query, key]), rel=6e-3)
        assert f"query t{query} " in page.text("#readout")
    assert ("no attention" in page.text("#readout")) == causal
    row, column = (page.run(f"document.getElementById('{name}').hidden") for name in ("row", "column"))
    assert (row, column) == (False, False)
    assert page.text("#queries .here") == "t2 2"
    assert page.text("#keys .here") == "9 t9"
    strongest = int(sheet.heads[0].probabilities[2].argmax())
    assert page.text("#at li code") == f"t{strongest} {strongest}"
    strongest = int(sheet.heads[0].probabilities[:, 2].argmax())
    assert page.text("#by li code") == f"t{strongest} {strongest}"


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_the_large_picture_has_the_colours_of_the_scale(opened, scale):
    sheet = make(layers=1, heads=1)
    page = opened(sheet, scale="linear" if scale == "log" else "log")
    page.click(f"input[value={scale}]")
    drawn = page.run("Array.from(document.getElementById('canvas').getContext('2d').getImageData(0, 0, 12, 12).data)")
    drawn = np.reshape(drawn, (12, 12, 4))
    shades = shade(sheet.heads[0].probabilities, scale)
    for query, key in ((5, 2), (11, 0), (9, 9), (3, 8)):
        if key > query:
            assert drawn[query, key, 3] == 0
        else:
            wanted = colormaps["viridis"](float(shades[query, key]), bytes=True)
            assert np.abs(drawn[query, key] - np.int64(wanted)).max() <= 3
    ticks = page.run("Array.from(document.querySelectorAll('#ticks span')).map((tick) => tick.textContent)")
    assert ticks == (
        ["1", "0.1", "0.01", "0.001", "\u2264 0.0001"] if scale == "log" else ["1", "0.75", "0.5", "0.25", "0"]
    )


@pytest.mark.parametrize(("count", "step"), [(12, 1), (64, 1), (65, 2), (256, 4)])
def test_axes_name_tokens_up_to_64_and_thin_out_beyond(opened, count, step):
    page = opened(make(count, layers=1, heads=1))
    for axis in ("queries", "keys"):
        places = page.run(f"Array.from(document.querySelectorAll('#{axis} i')).map((label) => +label.textContent)")
        assert len(places) <= 64
        assert places == list(range(0, count, places[1]))
        assert places[1] >= step


def test_the_contact_sheet_opens_heads_by_mouse_and_by_keyboard(opened):
    page = opened(make())
    assert page.run("document.querySelectorAll('[data-head]').length") == 6
    assert not page.run("document.getElementById('viewer').open")
    page.click('[data-head="4"]')
    assert page.text("#head") == "head 1.1: local band"
    assert page.run("location.hash") == "#head-1.1"
    page.click("#next")
    assert page.text("#head") == "head 1.2: local band"
    page.click("#next")
    assert page.text("#head") == "head 0.0: local band"
    page.press("Escape")
    assert not page.run("document.getElementById('viewer').open")
    page.run("document.querySelector('[data-head=\"2\"]').focus()")
    page.press("Enter")
    assert page.text("#head") == "head 0.2: local band"
    assert page.run("document.activeElement.id") == "plot"
    page.press("ArrowUp")
    assert shown(page)[:2] == (11, 0)
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "PageUp", "ArrowUp", "ArrowLeft"):
        page.press(key)
    assert shown(page)[:2] == (0, 1)
    page.press("PageDown")
    page.press("End")
    assert shown(page)[:2] == (10, 10)
    page.press("Escape")
    assert page.run("document.activeElement.dataset.head") == "2", "closing returns to where the focus was"


def test_a_link_to_a_head_opens_it(opened):
    assert opened(make(), "#head-1.0").text("#head") == "head 1.0: local band"
    assert not opened(make(), "#head-9.9").run("document.getElementById('viewer').open")


def test_pointing_at_a_token_shows_what_it_attends_to_and_what_attends_to_it(opened):
    sheet = make(layers=1, heads=1, tokens=[f"word{i} " for i in range(12)])
    page = opened(sheet)
    page.point('[data-token="5"]', 0.5, 0.5)
    assert shown(page)[:2] == (5, 5)
    styles = page.run(
        "Array.from(document.querySelectorAll('[data-token]')).map((token) => "
        "[+token.style.getPropertyValue('--at'), +token.style.getPropertyValue('--by')])"
    )
    values = sheet.heads[0].probabilities
    wanted = np.stack([0.85 * np.sqrt(values[5]), np.sqrt(values[:, 5])], axis=1)
    np.testing.assert_allclose(styles, wanted, atol=2e-3)


def test_hostile_tokens_in_a_browser(opened):
    sheet = make(len(EVIL), tokens=EVIL, name=EVIL[0], model=EVIL[0])
    page = opened(sheet)
    page.click('[data-head="3"]')
    page.point("#plot", 0.1, 0.9)
    assert page.run("document.title").startswith("Attention of </script>")
    assert page.run("document.scripts.length") == 2
    assert page.run("document.querySelectorAll('img[src=\"x\"]').length") == 0
    texts = page.run("Array.from(document.querySelectorAll('[data-token]')).map((token) => token.textContent)")
    assert texts[:2] == list(EVIL[:2])
    assert texts[5] == "\\x00\\x1b\\r"


def test_a_head_without_numbers_shows_its_small_picture_and_how_to_get_them(opened):
    page = opened(make(64, layers=1, heads=3), most=1)
    page.click('[data-head="2"]')
    assert page.run("getComputedStyle(document.getElementById('grid')).display") == "none"
    assert page.text("#again") == "--head 0.2"
    page.click("#previous")
    page.click("#previous")
    assert page.run("getComputedStyle(document.getElementById('grid')).display") == "grid"


def brightness(png):
    return float(imread(io.BytesIO(png))[:20, :, :3].mean())


def test_it_is_dark_if_dark_is_preferred(opened):
    page = opened(make())
    light = brightness(page.screenshot())
    page.prefer(prefers_color_scheme="dark")
    assert brightness(page.screenshot()) < 0.2 < 0.9 < light


@pytest.mark.parametrize("width", [360, 1300])
def test_it_fits_the_window(opened, width):
    page = opened(make(40, layers=1, heads=1))
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    try:
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
        assert page.run("document.documentElement.scrollWidth") <= width
        plot = page.run("document.getElementById('plot').getBoundingClientRect().width")
        assert plot == page.run("document.getElementById('canvas').getBoundingClientRect().width") >= 180
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")
