"""A report of the planted study, and a browser to look at pages with."""

import runpy
from pathlib import Path

import pytest

from apmae.engine.report import write_report


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A real headless browser (browser.py); skips where there is none."""
    driver = runpy.run_path(str(Path(__file__).with_name("browser.py")))
    if not driver["find"]():
        pytest.skip(f"no browser here: none of {', '.join(driver['NAMES'])} is installed")
    tab = driver["Browser"](tmp_path_factory.mktemp("browser"))
    yield tab
    tab.close()


@pytest.fixture(scope="session")
def report(folder, tmp_path_factory):
    return write_report(folder, tmp_path_factory.mktemp("report"))
