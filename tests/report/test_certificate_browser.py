"""A certificate's page in a real browser: it draws, fits a phone, opens by keyboard, asks nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from certificate_fixture import synthetic_certificate
from page_browser import NEEDED, showing
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from sonet.report import render_certificate, write_whole

pytestmark = NEEDED

EVIL = "</script><script>window.broken = 1</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    evil = synthetic_certificate(title=EVIL, model=EVIL)
    path = write_whole(tmp_path_factory.mktemp("page") / "report.html", render_certificate(evil))
    with showing(path, tmp_path_factory.mktemp("profile"), "--force-prefers-reduced-motion") as driver:
        yield driver


def test_the_curve_is_drawn_with_lines_band_and_points(browser: webdriver.Chrome) -> None:
    script = """
    const count = kind => document.querySelectorAll(
        `#curve_chart svg .mark-${kind}.role-mark path, #curve_chart svg .mark-${kind}.role-mark line`).length;
    return ['line', 'area', 'symbol', 'rule'].map(count);
    """
    lines, areas, symbols, rules = browser.execute_script(script)
    assert (lines, areas) == (2, 1)
    assert symbols == rules == 7  # four radii certified, three attacked


@pytest.mark.parametrize(
    "title",
    [
        "radius, l2",
        "share of images",
    ],
)
def test_the_axes_have_titles(browser: webdriver.Chrome, title: str) -> None:
    script = "return [...document.querySelectorAll('#curve_chart svg .role-axis-title text')].map(t => t.textContent)"
    assert title in browser.execute_script(script)


def test_the_console_is_silent_and_nothing_escaped(browser: webdriver.Chrome) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return window.broken") is None
    assert EVIL in browser.find_element("tag name", "h1").text


def test_no_request_leaves_the_file(browser: webdriver.Chrome) -> None:
    names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_never_wider_than_the_window(browser: webdriver.Chrome, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    narrow = "return document.documentElement.scrollWidth <= window.innerWidth && window.innerWidth === arguments[0]"
    chart = "const p = document.querySelector('.chart'); return p.scrollWidth <= p.clientWidth + 1"
    WebDriverWait(browser, 10).until(lambda d: d.execute_script(narrow, width) and d.execute_script(chart))
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = false")


def test_the_images_open_by_keyboard(browser: webdriver.Chrome) -> None:
    summary = browser.find_element("css selector", "details > summary")
    opened = "return document.querySelector('details').open"
    assert browser.execute_script(opened) is False
    summary.send_keys(Keys.ENTER)
    assert browser.execute_script(opened) is True
    assert len(browser.find_elements("css selector", "details tbody tr")) == 40
    assert browser.find_element("css selector", "details tbody tr").is_displayed()


def test_dark_mode_has_light_text(browser: webdriver.Chrome) -> None:
    script = """
    const sum = colour => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
    return [sum(getComputedStyle(document.body).backgroundColor),
            sum(getComputedStyle(document.querySelector('#curve_chart svg text')).fill)];
    """
    for scheme, sign in (("light", 1), ("dark", -1)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
        page, text = browser.execute_script(script)
        assert sign * (page - text) > 400
