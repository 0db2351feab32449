"""The page at `/` in headless Chromium: ranked, compared and classified by keyboard alone."""

import shutil
from collections.abc import Iterator

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: chromium)")

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


@pytest.fixture(params=[(1200, 900), (360, 740)], ids=["desk", "phone"])
def page(
    browser: "playwright.Browser", request: pytest.FixtureRequest
) -> Iterator["playwright.Page"]:
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.troubles = []
    opened.on("pageerror", lambda error: opened.troubles.append(str(error)))
    yield opened
    assert opened.troubles == []
    opened.close()


def open_page(page: "playwright.Page", url: str, key: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.asked = asked
    # the server wants a key: the field for it appears
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").press("Tab")
    page.locator("#model option").first.wait_for(state="attached")


def test_ranking_by_keyboard(page: "playwright.Page", url: str, key: str) -> None:
    open_page(page, url, key)
    documents = ["Most cats live fifteen years.", "<b>A dog</b> barks.", "家猫は十五年生きます。"]
    page.get_by_label("Documents").fill("\n".join(documents))
    page.get_by_label("Query").fill("How long do cats live?")
    page.get_by_label("Query").press("Enter")
    section = page.get_by_label("Ranking by reranker")
    section.wait_for()
    items = section.locator("li")
    assert items.count() == 3
    scores = [float(text) for text in section.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    told = set(section.locator(".text").all_inner_texts())
    assert told == set(documents)  # tags are shown as they were typed
    assert page.locator("#columns b").count() == 0
    assert "Ranked 3 documents" in page.get_by_role("status").inner_text()
    assert section.locator(".classes").first.locator("span").count() == 3
    assert all(address.startswith(url) for address in page.asked)  # nothing from elsewhere


def test_sample_passages_and_comparison(page: "playwright.Page", url: str, key: str) -> None:
    open_page(page, url, key)
    page.get_by_label("Compare with").select_option("embedder")
    page.get_by_role("button", name="Load the multilingual sample").click()
    page.get_by_label("Ranking by embedder").wait_for()
    assert page.locator("#columns section").count() == 2
    for name in ("reranker", "embedder"):
        assert page.get_by_label(f"Ranking by {name}").locator("li").count() > 20
    assert page.locator("mark").count() >= 1  # the best sentence of the longest document
    assert page.get_by_text("beside the other").count() > 0
    sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(sideways)


def test_errors_are_told(page: "playwright.Page", url: str, key: str) -> None:
    page.goto(url)
    page.get_by_label("API key").wait_for()
    assert "API key" in page.get_by_role("status").inner_text()
    page.get_by_label("Query").fill("q")
    page.get_by_label("Documents").fill("   ")
    page.get_by_role("button", name="Rank", exact=True).click()
    assert "one document or more" in page.get_by_role("status").inner_text()


def test_every_control_can_be_reached_and_named(
    page: "playwright.Page", url: str, key: str
) -> None:
    open_page(page, url, key)
    page.get_by_label("Query").focus()
    reached = []
    for _ in range(9):
        reached.append(page.evaluate("document.activeElement.id"))
        page.keyboard.press("Tab")
    wanted = ["query", "documents", "model", "other", "classifier", "key", "rank", "sample"]
    assert reached[:8] == wanted
    controls = page.locator("input, select, textarea")
    assert all(controls.nth(i).evaluate("e => e.labels.length") for i in range(controls.count()))
