"""An audit's page in a real browser: it draws, fits a phone, is used by keyboard, prints whole, asks nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from audit_fixture import synthetic_audit
from page_browser import DRAWN, NEEDED, showing
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from sonet.report import render_audit, write_whole

pytestmark = NEEDED

EVIL = "</script><script>window.broken = 1</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    evil = synthetic_audit(title=EVIL, model=EVIL)
    path = write_whole(tmp_path_factory.mktemp("page") / "report.html", render_audit(evil))
    with showing(path, tmp_path_factory.mktemp("profile"), "--force-prefers-reduced-motion") as driver:
        yield driver


def _media(browser: webdriver.Chrome, media: str = "", scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def _texts(browser: webdriver.Chrome, chart: str) -> list[str]:
    script = f"return [...document.querySelectorAll('#{chart} svg text')].map(t => t.textContent)"
    texts: list[str] = browser.execute_script(script)
    return texts


def test_every_chart_is_drawn_with_its_marks(browser: webdriver.Chrome) -> None:
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(p => p.querySelectorAll('svg .role-mark path').length)"
    )
    assert len(marks) == 5
    assert min(marks) > 0
    assert {"0.64", "0.90", "substitute"} <= set(_texts(browser, "matrix_chart"))
    assert "step sizes: taken as given (frozen)" in _texts(browser, "causes_chart")
    assert "frozen" in _texts(browser, "ladder_0")
    crossed = browser.execute_script("return document.querySelectorAll('#surface_chart .mark-rule line').length")
    assert crossed > 20


def test_the_console_is_silent_and_nothing_escaped(browser: webdriver.Chrome) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return window.broken") is None
    assert EVIL in browser.find_element("tag name", "h1").text


def test_no_request_leaves_the_file(browser: webdriver.Chrome) -> None:
    names = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    reached = browser.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('yes'), e => done('refused'));"
    )
    assert reached == "refused"


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_is_never_wider_than_the_window(browser: webdriver.Chrome, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    narrow = "return document.documentElement.scrollWidth <= window.innerWidth && window.innerWidth === arguments[0]"
    charts = "return [...document.querySelectorAll('.chart')].every(p => p.scrollWidth <= p.clientWidth + 1)"
    WebDriverWait(browser, 10).until(lambda d: d.execute_script(narrow, width) and d.execute_script(charts))
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = false")


def test_dark_mode_has_light_text_but_cells_keep_theirs(browser: webdriver.Chrome) -> None:
    script = """
    const sum = colour => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
    const fill = selector => sum(getComputedStyle(document.querySelector(selector)).fill);
    return [sum(getComputedStyle(document.body).backgroundColor), fill('#causes_chart svg text'),
            [...document.querySelectorAll('#matrix_chart .on_colour_marks text')]
                .map(t => sum(getComputedStyle(t).fill))];
    """
    _media(browser, scheme="light")
    page, text, on_light = browser.execute_script(script)
    assert page - text > 500
    _media(browser, scheme="dark")
    page, text, on_dark = browser.execute_script(script)
    _media(browser)
    assert text - page > 500
    assert on_light == on_dark
    assert len(on_dark) == 16
    assert len(set(on_dark)) == 2  # white on deep cells, ink on pale ones


def _tabs(browser: webdriver.Chrome, count: int) -> list[str]:
    """What Tab reaches from the top of the page, each by its link, or by the start of its text or label."""
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(count):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(
            browser.execute_script(
                "const e = document.activeElement; return e.getAttribute('href') "
                "|| e.getAttribute('aria-label') || (e.closest('details.finding') || {}).id || e.textContent"
            )
        )
    return reached


def test_tab_goes_from_the_skip_link_over_reasons_and_command_to_the_findings(browser: webdriver.Chrome) -> None:
    browser.get(browser.current_url.partition("#")[0])
    WebDriverWait(browser, 20).until(lambda d: d.execute_script(DRAWN))
    reached = _tabs(browser, 30)
    assert reached[:5] == [
        "#the_findings",
        "#plain-and-worst",
        "#step-sizes",
        "Copy the command",
        "Words used on this page",
    ]
    findings = [finding.name for finding in synthetic_audit().findings]
    assert sorted(name for name in reached if name in findings) == sorted(findings)
    # Raised ones come before the others of their family.
    assert reached.index("batch-mates") < reached.index("same-answer")


def test_enter_opens_a_finding_and_a_link_opens_its_target(browser: webdriver.Chrome) -> None:
    opened = "return document.getElementById(arguments[0]).open"
    summary = browser.find_element("css selector", "#same-answer > summary")
    assert browser.execute_script(opened, "same-answer") is False
    summary.send_keys(Keys.ENTER)
    assert browser.execute_script(opened, "same-answer") is True
    browser.execute_script("document.getElementById('step-sizes').open = false; location.hash = ''")
    browser.find_element("css selector", "a[href='#step-sizes']").send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda d: d.execute_script(opened, "step-sizes"))


def test_the_copy_button_answers(browser: webdriver.Chrome) -> None:
    button = browser.find_element("css selector", "button.copy")
    assert button.is_displayed()
    button.send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda _: button.text in ("Copied", "Selected"))


def test_paper_gets_every_finding_and_no_button(browser: webdriver.Chrome) -> None:
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = false")
    _media(browser, "print", "dark")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('details.finding > dl')].map(p => p.getBoundingClientRect().height)"
    )
    assert len(heights) == 9
    assert min(heights) > 50
    assert not browser.find_element("css selector", "button.copy").is_displayed()
    white = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert white == "rgb(255, 255, 255)"
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    _media(browser)
    assert browser.execute_script("return document.querySelectorAll('details.finding[open]').length") == 0
    assert len(browser.print_page()) > 50_000
