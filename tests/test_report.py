import re
from html.parser import HTMLParser

from test_records import fields

from freelib.records import RecordStore, complete
from freelib.report import duration, markdown_table, write_index


def results(folder):
    """A profile's results: two notebooks, a table, a figure, records."""
    for name in ("00_quickstart", "01_table1"):
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        (folder / "notebooks" / f"{name}.ipynb").write_text("{}")
    tables, figures = (
        ("table1.md", "table1.csv"),
        ("table1_bars.png", "table1_bars.pdf", "table10.png", "stray.png"),
    )
    for name in [f"tables/{name}" for name in tables] + [f"figures/{name}" for name in figures]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("Caption\n\n| a | b |\n| --- | --- |\n| **1** | x & y |\n\nNote\n")
    store = RecordStore(folder / "records")
    for seed in (0, 1):
        store.put(complete(fields(seed=seed, cpu="A <processor>", seconds={"training": 60.0, "test": 5.0})))
    return folder


class Links(HTMLParser):
    """All links and embedded pictures of a page, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.links, self.pictures, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "img":
            self.pictures.append(dict(attrs)["alt"])
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_has_everything_and_its_links_lead_somewhere(tmp_path):
    folder = results(tmp_path / "smoke")
    path = write_index(folder, notebooks=["00_quickstart", "01_table1", "02_absent"], failed=["01_table1"])
    text = path.read_text()
    page = Links()
    page.feed(text)
    assert page.open == []
    assert all((folder / link).is_file() for link in page.links)
    assert not any(link.startswith("/") or "://" in link for link in page.links)
    assert page.pictures == ["table1_bars", "stray", "table10"]
    sections = re.findall(r"<h2>(.*?)</h2>", text)
    assert sections == ["00_quickstart", "01_table1", "More tables and figures"]
    assert "broke off" in text.split("01_table1</h2>")[1]
    assert "A &lt;processor&gt;" in text
    assert "2 min 10 s" in text
    assert "color-scheme: light dark" in text


def test_an_empty_folder_gives_a_page_too(tmp_path):
    assert "No records yet" in write_index(tmp_path).read_text()


def test_markdown_table():
    html = markdown_table(
        "Caption\n\n| a | b |\n| --- | --- |\n| **1** | x & y |\n|  | − |\n| \\|u\\| | \\| |\n\nA **note**"
    )
    assert html.splitlines() == [
        "<p>Caption</p>",
        "<table>",
        "<tr><th>a</th><th>b</th></tr>",
        "<tr><td><b>1</b></td><td>x &amp; y</td></tr>",
        "<tr><td></td><td>−</td></tr>",
        "<tr><td>|u|</td><td>|</td></tr>",
        "</table>",
        "<p>A <b>note</b></p>",
    ]


def test_duration():
    assert [duration(s) for s in (12.4, 250, 11100)] == ["12 s", "4 min 10 s", "3 h 05 min"]
