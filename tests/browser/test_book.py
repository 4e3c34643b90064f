"""The book, as a reader has it: opened from a file, on a phone, in the dark, without a network."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

BOOK = Path(__file__).parents[2] / "build" / "book" / "cpu" / "html"
PAGES = sorted(path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html"))
PAGES = [page for page in PAGES if not page.startswith(("_modules/", "_static/"))]  # code; parts of the theme
# What reaches beyond the window and is not inside of something that scrolls: a table, code, a formula.
TOO_WIDE = """() => {
    const scrolls = element => element !== document.body && element.tagName !== "MAIN"
        && ["auto", "scroll"].includes(getComputedStyle(element).overflowX)
    const inside = element => element && (scrolls(element) || inside(element.parentElement))
    return [...document.querySelectorAll("body *")].filter(element => {
        const box = element.getBoundingClientRect()
        return box.width > 0 && box.left < innerWidth && box.right > innerWidth + 1 && !inside(element)
    }).map(element => element.outerHTML.slice(0, 100))
}"""


def address(page: str) -> str:
    return (BOOK / page).as_uri()


def test_the_first_page_opens_from_a_file(open_page):
    page = open_page(address("index.html"))
    page.wait_for_url("**/docs/index.html")
    assert page.locator("h1").inner_text().startswith("freelib")
    assert page.get_by_role("link", name="Notebooks").first.is_visible()


def test_search_finds_lemma_1(open_page):
    page = open_page(address("docs/index.html"))
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("searchbox").last.fill("Lemma 1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Lemma+1")
    found = page.locator("#search-results li a[href*='21_lemma1']").first
    found.wait_for()
    found.click()
    page.wait_for_url("**/notebooks/21_lemma1*")


def test_formulas_are_rendered(open_page):
    page = open_page(address("docs/guide/method.html"))
    page.wait_for_function("() => window.MathJax?.startup?.promise")
    page.evaluate("() => MathJax.startup.promise")
    assert page.locator("mjx-container svg").count() == page.locator(".math").count() > 10
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0


def test_every_notebook_is_a_page_with_figures_that_are_described(open_page):
    notebooks = sorted(path.stem for path in (BOOK.parents[3] / "notebooks").glob("*.ipynb"))
    assert [Path(page).stem for page in PAGES if page.startswith("notebooks/")] == notebooks
    page = open_page(address("notebooks/01_table1.html"))
    pictures = page.locator(".cell_output img")
    assert pictures.count() > 0
    assert all(picture.get_attribute("alt").startswith("Figure: ") for picture in pictures.all())


@pytest.mark.parametrize(("size", "colours"), [("wide", "light"), ("narrow", "dark")])
@pytest.mark.parametrize("name", PAGES or ["no book: make book"])
def test_a_page_needs_no_network_no_sideways_scrolling_and_no_eyes(open_page, name, size, colours):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(address(name), size, colours)
    page.wait_for_load_state("load")
    assert [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))] == []
    if name == "index.html":  # it leads on
        return
    page.wait_for_timeout(300)  # the theme marks what scrolls as reachable by keyboard
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(TOO_WIDE) == []
    violations = [
        (found["id"], [node["html"][:100] for node in found["nodes"]][:3])
        for found in axe.run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
    assert violations == []
