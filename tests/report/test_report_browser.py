"""The page in a real browser: it draws, it fits a phone, it asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_browser import NEEDED, showing
from report_fixture import VERDICT, synthetic_record
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from sonet.report import render, write_whole

pytestmark = NEEDED


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless browser that shows the page."""
    evil = synthetic_record().model_copy(update={"title": "</script><script>window.broken = 1</script>"})
    path = write_whole(tmp_path_factory.mktemp("page") / "report.html", render(evil))
    with showing(path, tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_every_chart_is_drawn_with_its_marks(browser: webdriver.Chrome) -> None:
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(p => p.querySelectorAll('svg .role-mark path').length)"
    )
    assert len(marks) == 10
    assert min(marks) > 0
    texts = browser.execute_script("return [...document.querySelectorAll('#bars-2 svg text')].map(t => t.textContent)")
    assert "PGD-20, CE, differentiated, batch 100" in texts
    # Its first sentence stands on a line of its own.
    assert VERDICT in " ".join(browser.find_element("tag name", "body").text.split())


def test_the_console_is_silent_and_nothing_escaped(browser: webdriver.Chrome) -> None:
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    assert browser.execute_script("return window.broken") is None


def test_no_request_leaves_the_file(browser: webdriver.Chrome) -> None:
    names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    reached = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('yes'), e => done('refused'));"
    )
    assert reached == "refused"


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_page_is_never_wider_than_the_window(browser: webdriver.Chrome, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    narrow = "return document.documentElement.scrollWidth <= window.innerWidth && window.innerWidth === arguments[0]"
    charts = "return [...document.querySelectorAll('.chart')].every(p => p.scrollWidth <= p.clientWidth + 1)"
    WebDriverWait(browser, 10).until(lambda d: d.execute_script(narrow, width) and d.execute_script(charts))


def test_dark_mode_has_light_text_on_a_dark_page(browser: webdriver.Chrome) -> None:
    def lightness(scheme: str) -> tuple[int, int]:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        script = """
        const sum = colour => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
        return [sum(getComputedStyle(document.body).backgroundColor),
                sum(getComputedStyle(document.querySelector('.chart svg text')).fill)];
        """
        page, text = browser.execute_script(script)
        return page, text

    page, text = lightness("dark")
    assert text - page > 500
    page, text = lightness("light")
    assert page - text > 500


def test_the_first_tab_reaches_the_skip_link(browser: webdriver.Chrome) -> None:
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    body = browser.find_element("tag name", "body")
    body.send_keys("\ue004")
    assert browser.switch_to.active_element.get_attribute("class") == "skip"
