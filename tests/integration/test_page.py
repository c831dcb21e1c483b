"""The page in a real browser: Debian's Chromium, driven through Selenium.

Skipped, with the reason, where Chromium, its driver, Selenium or (for accessibility) axe-core is
missing: ``apt-get install chromium chromium-driver``, and ``npm install`` in this folder.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import polars as pl
import pytest

from layergrad.config import Study
from layergrad.figures import PAIR_FAMILIES
from layergrad.report import page as page_module
from layergrad.report.page import write_page
from layergrad.tables import DATASET, write_table
from tests.synthetic import tiny_study
from tests.unit.test_report_figures import aggregated, measured

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"
)

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> "
LONG_WORD = "w" * 5000
LONG_NAME = "A_name_without_a_place_to_break_" + "Llama_3.1_Nemotron_" * 8
DESKTOP, TABLET, PHONE = (1280, 900), (768, 1024), (390, 844)
# Set on every element, so that the result does not hang on the fonts of a machine.
FONTS = {
    "narrow": "font-family: 'Liberation Sans Narrow', sans-serif; letter-spacing: -.03em",
    "wide": "font-family: 'DejaVu Sans', sans-serif; letter-spacing: .15em",
}
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a study of two models whose data set holds hostile text."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = measured(folder, ("tiny-base", "tiny-instruct"))
        for spec in plan.study.datasets:
            rows = [
                {
                    "sample_id": "a",
                    "row": 0,
                    "dataset": spec.name,
                    "response": response,
                    "control": control,
                    "instruction": HOSTILE,
                    "response_text": LONG_WORD,
                }
                for response in spec.responses
                for control in plan.study.controls_of(spec)
            ]
            write_table(pl.DataFrame(rows), DATASET, plan.dataset_file(spec.name), {})
        write_page(plan, Path("reports/index.html"))
        patch.setattr(page_module, "MOST_INLINE", 1000)
        write_page(plan, Path("large/index.html"))
        yield folder / "reports" / "index.html"


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """Write the page of a study in which every name is long, and most have no place to break."""
    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study = tiny_study(("tiny-base", "tiny-instruct"))
        models = [
            {**spec.model_dump(), "title": f"{LONG_NAME}{i}", "note": LONG_NAME, "family": "f" * 60}
            for i, spec in enumerate(study.models)
        ]
        datasets = [
            {**spec.model_dump(), "title": f"{i} {LONG_NAME}", "group": LONG_NAME[:80]}
            for i, spec in enumerate(study.datasets)
        ]
        report = {"title": LONG_NAME}
        study = study.model_copy(update={"samples": 5})
        study = Study.model_validate(
            {**study.model_dump(), "models": models, "datasets": datasets, "report": report}
        )
        plan = aggregated(folder, study)
        write_page(plan, Path("reports/index.html"))
        yield folder / "reports" / "index.html"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser, file: Path, size: tuple[int, int] = DESKTOP) -> None:
    """Open a page at a size and wait until its figures are drawn."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    browser.get(file.as_uri())
    until_drawn(browser)


def until_drawn(browser) -> None:
    wait(lambda: status(browser).startswith("Showing"), lambda: status(browser))


def status(browser) -> str:
    return browser.find_element("id", "status").text


def wait(done, state=lambda: "", seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, state()
        time.sleep(0.05)


def choose(browser, name: str, value: str) -> None:
    """Choose an option and wait until the figures show it."""
    browser.execute_script("document.getElementById('status').textContent = ''")
    select = browser.find_element("id", f"choose-{name}")
    select.find_element("css selector", f"option[value='{value}']").click()
    until_drawn(browser)


def drawn(browser, family: str) -> str:
    """Return what a figure draws."""
    return browser.find_element("css selector", f"#figure-{family} svg").get_attribute("innerHTML")


def severe(browser) -> list[str]:
    return [e["message"] for e in browser.get_log("browser") if e["level"] in {"SEVERE", "WARNING"}]


def test_opens_without_an_error_or_a_request(browser, page):
    browser.get_log("performance")
    visit(browser, page)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    assert severe(browser) == []
    for family in (*PAIR_FAMILIES, "tuning", "knowledge"):
        assert "path" in drawn(browser, family), family


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metric", "effective_rank"),
        ("model", "tiny-instruct"),
        ("dataset", "knowledge"),
        ("control", "irrelevant"),
        ("projection", "v"),
        ("depth", "relative"),
        ("scale", "linear"),
    ],
)
def test_a_choice_changes_the_curves(browser, page, name, value):
    visit(browser, page)
    before = drawn(browser, "curves")
    choose(browser, name, value)
    assert drawn(browser, "curves") != before
    assert severe(browser) == []


def test_caption_and_title_follow_the_choice(browser, page):
    visit(browser, page)
    choose(browser, "metric", "effective_rank")
    figure = browser.find_element("id", "figure-curves").text
    assert figure.startswith("Effective rank by layer")
    assert "the effective rank (q / k / v / o) is" in figure
    assert "METRICTITLE" not in figure


def hover(browser, selector: str) -> None:
    """Move the pointer to the first such mark, clear of the bar of choices."""
    mark = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    webdriver.ActionChains(browser).move_to_element(mark).perform()


@pytest.mark.parametrize("family", ["curves", "mad"])
def test_a_tooltip_tells_numbers_interval_and_samples(browser, page, family):
    visit(browser, page)
    hover(browser, f"#figure-{family} .mark-symbol.role-mark path")
    tooltip = browser.find_element("id", "vg-tooltip-element")
    wait(lambda: "visible" in tooltip.get_attribute("class"))
    for word in (
        "Response",
        "Projection",
        "nuclear norm",
        "Interval from",
        "Interval to",
        "Samples",
    ):
        assert word.lower() in tooltip.text.lower()
    assert "undefined" not in tooltip.text


def test_hovering_a_layer_marks_it_in_every_panel(browser, page):
    visit(browser, page)
    hover(browser, "#figure-curves .mark-symbol.role-mark path")
    rules = "#figure-curves .mark-rule.role-mark line"
    wait(lambda: len(browser.find_elements("css selector", rules)) >= 4)


def test_text_of_a_dataset_does_no_harm(browser, page):
    for size in (DESKTOP, PHONE):
        visit(browser, page, size)
        for summary in browser.find_elements("css selector", ".example summary"):
            summary.click()
        assert browser.title == "Fast and slow thinking in the layers"
        assert "<script>document.title" in browser.find_element("css selector", ".example").text
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= size[0]


# Elements that reach beyond the screen, though they are in no box that scrolls.
BEYOND = """
const wide = document.documentElement.clientWidth;
const scrolling = ["auto", "scroll"];
const scrolls = (e) => e && e !== document.documentElement &&
  (scrolling.includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
return [...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > wide + 1 && !scrolls(e))
  .map((e) => e.outerHTML.slice(0, 120));
"""


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("size", [DESKTOP, TABLET, PHONE], ids=["desktop", "tablet", "phone"])
@pytest.mark.parametrize("study", ["page", "long_names"])
def test_nothing_widens_the_page(browser, study, size, font, request):
    visit(browser, request.getfixturevalue(study), size)
    browser.execute_script(
        "document.head.append(Object.assign(document.createElement('style'),"
        " {textContent: arguments[0]}));"
        "document.querySelectorAll('details').forEach((e) => { e.open = true; });"
        "document.querySelector('math[display]').innerHTML += `<mtext>${arguments[1]}</mtext>`;",
        f"body, body * {{ {FONTS[font]} !important }}",
        "a formula of many words " * 9,
    )
    assert browser.execute_script(BEYOND) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_works_by_keyboard(browser, page):
    visit(browser, page)
    before = drawn(browser, "curves")
    browser.execute_script("document.getElementById('choose-metric').focus()")
    browser.execute_script("document.getElementById('status').textContent = ''")
    browser.switch_to.active_element.send_keys(webdriver.Keys.ARROW_DOWN)
    until_drawn(browser)
    assert drawn(browser, "curves") != before


def test_a_finding_leads_to_its_figure(browser, page):
    visit(browser, page)
    link = browser.find_element("css selector", "a.verdict[data-model='tiny-instruct']")
    target = link.get_attribute("href").split("#")[1]
    browser.execute_script(
        "document.getElementById('status').textContent = ''; arguments[0].click()", link
    )
    until_drawn(browser)
    assert browser.find_element("id", "choose-model").get_attribute("value") == "tiny-instruct"
    assert browser.find_element("id", target).is_displayed()


def test_figures_can_be_saved(browser, page, tmp_path):
    visit(browser, page)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    for kind in ("svg", "png", "csv"):
        button = browser.find_element("css selector", f"#figure-mad button[data-save='{kind}']")
        browser.execute_script("arguments[0].click()", button)
        file = tmp_path / f"mad.tiny-base.gsm_symbolic.nuclear_norm.{kind}"
        wait(file.exists)
    assert "response" in (tmp_path / "mad.tiny-base.gsm_symbolic.nuclear_norm.csv").read_text()


def test_numbers_stand_in_a_table(browser, page):
    visit(browser, page)
    details = browser.find_element("css selector", "#figure-mad details")
    details.find_element("tag name", "summary").click()
    wait(lambda: len(details.find_elements("css selector", "tbody tr")) == 48)


def test_a_large_study_loads_a_model_when_it_is_chosen(browser, page):
    large = page.parents[1] / "large" / "index.html"
    visit(browser, large)
    before = drawn(browser, "curves")
    choose(browser, "model", "tiny-instruct")
    assert drawn(browser, "curves") != before
    assert severe(browser) == []


@pytest.mark.skipif(
    not AXE.exists(), reason="axe-core is not installed: npm install in tests/integration"
)
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_accessibility(browser, page, size):
    visit(browser, page, size)
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document).then((result) => done(result.violations))"
    )
    serious = [
        f"{v['id']}: {v['nodes'][0]['html']}"
        for v in found
        if v["impact"] in {"serious", "critical"}
    ]
    assert serious == []
