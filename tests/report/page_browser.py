"""A headless browser that shows one page, for the tests of both reports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

NEEDED = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver"),
]

DRAWN = """
const places = [...document.querySelectorAll('.chart')];
return places.length > 0 && places.every(place => place.querySelector('svg, canvas'));
"""


@contextmanager
def showing(page: Path, profile: Path, *more: str) -> Iterator[webdriver.Chrome]:
    """The browser with `page` drawn. profile: a folder of its own. more: further arguments."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--no-first-run",
        *more,
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    assert BROWSER is not None  # a path given here keeps selenium from looking for one to download
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        open_page(driver, page)
        yield driver
    finally:
        driver.quit()


def open_page(driver: webdriver.Chrome, page: Path) -> None:
    """Load it and wait until its charts are drawn."""
    driver.get(page.as_uri())
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(DRAWN))
