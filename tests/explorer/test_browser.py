"""The page of `llamavae explore` on `mini`, driven in chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="chromium and chromium-driver are not installed"
    ),
]

T = TypeVar("T")

KEY = "a key"
SENTENCES = 300
WAIT = 60  # seconds
AXE = files("axe_core_python") / "axe.min.js"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A running service with a key; its address."""
    command = [sys.executable, "-m", "llamavae", "explore", "--model", "mini", "--port", "0"]
    options = ["--corpus", "factors", "--limit", str(SENTENCES), "--api-key", KEY]
    options += ["--projection", "pca", "--projection", "tsne"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"http://\S+", line):
            yield found[0]
            break
    else:
        raise AssertionError("the service did not start:\n" + "".join(log))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT)


class Page:
    """The page in a browser."""

    def __init__(self, driver: webdriver.Chrome, address: str, downloads: Path) -> None:
        self.driver, self.address, self.downloads = driver, address, downloads

    def load(self, fragment: str = "") -> None:
        self.driver.get("about:blank")  # a change of the fragment alone loads nothing
        self.driver.get(self.address + fragment)
        self.until(lambda: self.run("return document.documentElement.dataset.ready"))
        self.settle()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], T]) -> T:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"it did not happen in time: {self.text('status')}")

    def settle(self) -> None:
        """Wait for the answers of the service."""
        time.sleep(0.3)  # more than the delay of the sliders
        self.until(lambda: not self.text("status"))
        assert self.text("error") == ""

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name).strip()

    def click(self, name: str) -> None:
        self.find(name).click()
        self.settle()

    def type(self, name: str, text: str) -> None:
        self.find(name).clear()
        self.find(name).send_keys(text)
        self.settle()

    def select(self, word: str, index: int = 0) -> str:
        """Select a sentence that the search finds; returns it."""
        self.type("search", word)
        button = self.all("#results button")[index]
        text = button.text
        button.click()
        self.settle()
        return text

    def pixels(self) -> list[list[float]]:
        """Where the first points are on the map, from its centre."""
        return self.run(
            """const rows = arguments[0];
            const map = document.getElementById("map");
            return rows.map(([x, y]) => [x - map.clientWidth / 2, y - map.clientHeight / 2]);""",
            self.run("return globalThis.explorer.pixels()"),
        )

    def console(self) -> list[str]:
        """Messages of the browser since the last call, without information."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [each["message"] for each in log if each["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def session(address, tmp_path_factory) -> Iterator[Page]:
    """One browser for all tests; its first visit enters the key."""
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(WAIT)
    page = Page(driver, address, downloads)
    try:
        driver.get(address)
        page.until(lambda: page.find("key-form").is_displayed())
        assert "API key" in page.text("error")
        page.find("key").send_keys(KEY + Keys.ENTER)
        page.until(lambda: page.run("return document.documentElement.dataset.ready"))
        assert [each for each in page.console() if "401" not in each] == []
        yield page
    finally:
        driver.quit()


def resize(page: Page, width: int, height: int, dark: bool = False) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})


@pytest.fixture
def page(session) -> Iterator[Page]:
    """The page, 1280 pixels wide; a message on the console fails the test."""
    resize(session, 1280, 900)
    yield session
    assert session.console() == []


def rows(page: Page, selector: str) -> list[str]:
    return [each.text for each in page.all(selector)]


def colours(page: Page, canvas: str) -> int:
    """Number of different colours on a canvas."""
    return page.run(
        """const canvas = document.getElementById(arguments[0]);
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;""",
        canvas,
    )


# ---------------------------------------------------------------------------------------- the map


def test_points_are_coloured_by_a_label(page):
    page.load()
    page.until(lambda: colours(page, "points") > 6)
    page.find("colour").send_keys("tense")
    page.until(lambda: sorted(rows(page, "#legend li")) == ["future", "past", "present"])
    assert f"{SENTENCES} sentences in 64 dimensions" == page.text("facts")


def test_pointing_at_a_point_shows_its_sentence(page):
    x, y = page.pixels()[0]
    ActionChains(page.driver).move_to_element_with_offset(page.find("map"), x, y).perform()
    page.until(lambda: page.find("hover").is_displayed())
    assert len(page.text("hover").split()) > 2


def test_click_a_point(page):
    x, y = page.pixels()[0]
    ActionChains(page.driver).move_to_element_with_offset(page.find("map"), x, y).click().perform()
    page.settle()
    assert page.text("place-title") == "Sentence"
    assert len(page.all("#neighbours li")) == 8
    found = dict(zip(rows(page, "#place-facts dt"), rows(page, "#place-facts dd"), strict=True))
    assert found["Sentence"] in page.all("#neighbours li")[0].text
    assert len(found["Reconstruction"].split()) > 2


def test_click_another_place(page):
    middle = page.find("map")
    ActionChains(page.driver).move_to_element_with_offset(middle, -330, -300).click().perform()
    page.settle()
    assert page.text("place-title") == "Place without a sentence"
    assert rows(page, "#place-facts dt")[0] == "Text here"
    assert rows(page, "#place-facts dd")[0]


def test_zoom_and_move(page):
    page.click("zoom-all")
    before = page.pixels()[0]
    for name in ("zoom-in", "zoom-in"):
        page.click(name)
    zoomed = page.pixels()[0]
    assert zoomed == pytest.approx([2.25 * each for each in before], abs=1)
    middle = page.find("map")
    ActionChains(page.driver).move_to_element(middle).click_and_hold().move_by_offset(
        50, 30
    ).release().perform()
    assert page.pixels()[0] == pytest.approx([zoomed[0] + 50, zoomed[1] + 30], abs=1)
    page.click("zoom-all")
    assert page.pixels()[0] == pytest.approx(before, abs=1)


def test_another_projection(page):
    before = page.pixels()[0]
    page.find("projection").send_keys("TSNE")
    page.until(lambda: page.pixels()[0] != pytest.approx(before, abs=5))
    middle = page.find("map")
    ActionChains(page.driver).move_to_element_with_offset(middle, -330, -300).click().perform()
    page.settle()
    assert "mean of the nearest points' codes" in rows(page, "#place-facts dd")
    page.find("projection").send_keys("PCA")
    page.settle()


# ------------------------------------------------------------------------------ paths and tools


@pytest.mark.parametrize("how", ["shift", "mode"])
def test_drag_from_a_point_to_another(page, how):
    a, b, *_ = page.pixels()
    middle = page.find("map")
    actions = ActionChains(page.driver)
    if how == "shift":
        actions.key_down(Keys.SHIFT)
    else:
        page.find("path-mode").click()
    actions.move_to_element_with_offset(middle, *a).click_and_hold()
    actions.move_to_element_with_offset(middle, *b).release().key_up(Keys.SHIFT).perform()
    page.settle()
    if how == "mode":
        page.find("path-mode").click()
    found = rows(page, "#path-texts li")
    assert len(found) == 9
    assert len(set(found)) > 1
    assert page.all("#path-texts mark")
    first, second = re.findall(r"\d\.\d\d", page.text("path-scores"))
    assert 0 <= float(second) <= float(first) <= 1


def test_sliders_change_the_text(page):
    page.select("the")
    page.click("tab-coordinates")
    change = [int(each) for each in re.findall(r"changes (\d+) %", page.text("sliders"))]
    assert len(change) == 8
    assert change == sorted(change, reverse=True)
    assert change[0] > 0
    assert len(page.all("#strip li")) == 9
    assert page.all("#strip mark")
    before = page.text("moved")
    slider = page.all("#sliders input")[0]
    for key in (Keys.HOME, Keys.END):
        slider.send_keys(key)
        page.settle()
        if page.text("moved") != before:
            break
    assert page.text("moved") != before
    assert page.all("#moved mark")
    page.click("coordinates-reset")
    assert page.text("moved") == before
    page.all("#sliders button")[1].click()
    page.settle()
    page.click("sliders-more")
    assert len(page.all("#sliders li")) == 32
    page.click("coordinates-all")
    page.click("sliders-more")
    assert len(page.all("#sliders li")) == 64


def test_average_and_arithmetic(page):
    for index in range(3):
        page.click("tab-place")
        page.select("the", index)
        page.click("to-combine")
    assert len(page.all("#terms li")) == 3
    page.click("combine-average")
    average = page.text("combined")
    factor = page.all("#terms input")[1]
    factor.clear()
    factor.send_keys("-1" + Keys.TAB)
    page.click("combine-sum")
    assert page.text("combined")
    assert average
    page.click("combine-clear")
    assert page.all("#terms li") == []


def test_samples_of_a_condition(page):
    page.click("tab-condition")
    page.type("word-n", "5")
    page.type("word", "river" + Keys.ENTER)
    found = rows(page, "#samples button")
    assert len(found) == 5
    page.all("#samples button")[0].click()
    page.settle()
    assert page.text("place-title") == "Place without a sentence"


def test_dimensions_at_a_glance(page):
    page.click("tab-usage")
    assert re.match(
        r"\d+ of 64 dimensions are active\. .* nats in total\.", page.text("usage-facts")
    )
    assert len(page.all("#bars rect")) == 64


def test_a_text_of_ones_own_is_only_text(page):
    text = "<img src=x onerror=alert(1)> a dog"
    page.type("search", text)
    page.click("encode")
    page.click("tab-place")
    assert rows(page, "#place-facts dd")[0] == text
    assert page.all("img") == []


# ---------------------------------------------------------------------------- links and exports


def test_a_link_restores_the_state(page):
    page.load()
    sentence = page.select("the", 3)
    page.click("to-start")
    page.click("tab-place")
    page.select("the", 1)
    page.click("to-end")
    page.click("zoom-in")
    time.sleep(0.3)
    before = page.pixels()[0], rows(page, "#path-texts li")
    fragment = page.run("return location.hash")
    page.load(fragment)
    page.until(lambda: page.all("#path-texts li"))
    assert (page.pixels()[0], rows(page, "#path-texts li")) == (
        pytest.approx(before[0], abs=1),
        before[1],
    )
    assert rows(page, "#path-ends dd")[0] == sentence
    assert page.find("tab-path").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize(
    "fragment",
    [
        "#place=99999&a=-1&b=%22",
        "#place=%7B&view=[1]&tab=no&colour=no",
        '#view=x&terms=[1,{"place":{}}]&moves={"a":1,"99":2,"1":"x"}',
    ],
)
def test_a_damaged_link_is_ignored(page, fragment):
    page.load(fragment)
    assert page.find("place-empty").is_displayed()
    assert page.text("error") == ""
    assert page.all("#terms li") == []


def test_exports(page):
    page.load()
    page.select("the")
    for name in ("export-lines", "export-image"):
        page.click(name)
    lines, image = page.downloads / "explore.jsonl", page.downloads / "explore.png"
    page.until(lambda: lines.exists() and image.exists())
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [each["kind"] for each in found].count("sentence") == SENTENCES
    [place] = [each for each in found if each["kind"] == "place"]
    assert len(place["z"]) == 64
    assert image.read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------------------------- everyone's


def focused(page: Page) -> str:
    return page.run("return document.activeElement.id")


def test_the_keyboard_reaches_everything(page):
    page.load()
    reached: list[str] = []
    for _ in range(30):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(focused(page))
    for name in ("link", "export-image", "projection", "colour", "path-mode", "map", "zoom-in"):
        assert name in reached, name
    for name in ("search", "encode", "tab-place"):
        assert name in reached, name
    page.find("tab-place").send_keys(Keys.ARROW_RIGHT)
    assert focused(page) == "tab-path"
    before = page.pixels()[0]
    page.find("map").send_keys(Keys.ARROW_LEFT)
    assert page.pixels()[0] == pytest.approx([before[0] + 40, before[1]], abs=1)
    page.find("map").send_keys(Keys.ENTER)
    page.settle()
    assert page.text("place-title")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_accessibility(page, width, dark):
    page.load()
    resize(page, width, 900, dark)
    page.select("the")
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.run(AXE.read_text(encoding="utf-8"))
    for tab in ("place", "path", "coordinates", "combine", "condition", "usage"):
        page.click(f"tab-{tab}")
        found = page.driver.execute_async_script(
            "axe.run().then((found) => arguments[0](found.violations))"
        )
        serious = [
            (each["id"], [node["html"][:200] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
    resize(page, 1280, 900)
