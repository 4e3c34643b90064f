import re
from html.parser import HTMLParser

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_records import fields

from freelib.run.notebooks import write_notebook
from freelib.run.records import RecordStore, complete
from freelib.run.report import duration, write_index


def results(folder):
    """A profile's results: two notebooks, a table, a figure, records."""
    for name in ("00_quickstart", "01_table1"):
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        cells = [
            new_markdown_cell(
                f"# The {name[3:]} & its <title>\n\nWhat it is, with $\\theta$.\n\nMore of it."
            ),
            new_code_cell("print()", outputs=[new_output("stream", name="stdout", text="1 < 2\n")]),
            new_markdown_cell("## The table\n\n*bars* are bars."),
            new_code_cell('save_figure(figure, folder, "table1_bars")'),
        ]
        if name == "01_table1":
            cells[-1].outputs.append(new_output("error", ename="ValueError", evalue="no", traceback=[]))
        write_notebook(new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")
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
    path = write_index(folder, notebooks=["00_quickstart", "01_table1", "02_absent"])
    text = path.read_text()
    page = Links()
    page.feed(text)
    assert page.open == []
    assert all((folder / link).is_file() for link in page.links if not link.startswith("#"))
    assert not any(link.startswith("/") or "://" in link for link in page.links)
    assert page.pictures == ["table1_bars", "stray", "table10"]
    sections = re.findall(r"<h2>(.*?)</h2>", text)
    titles = ["The quickstart &amp; its &lt;title&gt;", "The table1 &amp; its &lt;title&gt;"]
    assert sections == [*titles, "More tables and figures"]
    assert re.findall(r'<li><a href="#(.*?)">(.*?)</a>', text) == [
        ("00_quickstart", titles[0]),
        ("01_table1", titles[1]),
    ]
    table1 = text.split('<section id="01_table1">')[1]
    assert text.count("broke off") == table1.count("broke off") == 1
    assert "More of it" not in text
    assert re.sub(r"\s+", " ", table1).index("<em>bars</em> are bars.</p> <p><img") > table1.index("1 &lt; 2")
    assert "A &lt;processor&gt;" in text
    assert "2 min 10 s" in text
    assert "color-scheme: light dark" in text


def test_an_empty_folder_gives_a_page_too(tmp_path):
    assert "No records yet" in write_index(tmp_path).read_text()


def test_duration():
    assert [duration(s) for s in (12.4, 250, 11100)] == ["12 s", "4 min 10 s", "3 h 05 min"]
