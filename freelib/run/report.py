"""The index page of a profile: every table and figure, the notebooks behind them, hardware and time."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import mistune

from freelib.run.notebooks import read_notebook
from freelib.run.records import Record, RecordStore
from freelib.storage import write_atomically

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
p, pre, li { max-width: 60rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; margin: 1rem 0; }
caption { text-align: left; font-style: italic; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { background: var(--soft); white-space: normal; }
img { max-width: min(100%, 60rem); background: white; padding: .5rem; box-sizing: border-box; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
pre { white-space: pre-wrap; font: inherit; background: var(--soft); padding: .5rem; }
nav ul { columns: 18rem; font-size: 13px; }
.failed { color: #c33; font-weight: bold; }
"""

_MARKDOWN = mistune.create_markdown(escape=True, plugins=["table", "math"])


def write_index(folder: str | Path, *, notebooks: Iterable[str] = ()) -> Path:
    """Write `<folder>/index.html` from what lies in the folder of a profile's results, and return its path.

    Sections are the notebooks in `notebooks/`, those named in `notebooks` first, in that order, without their
    code: the title, what it begins with, each table and figure with the text above it, what was printed. A
    table or figure belongs to the notebook that bears its name. Pictures are embedded, links are relative:
    the page can be moved along with its folder, or read alone. A notebook that broke off is marked.
    """
    folder = Path(folder)
    present = sorted(path.stem for path in (folder / "notebooks").glob("*.ipynb"))
    names = [name for name in notebooks if name in present]
    names += [name for name in present if name not in names]
    artefacts = [*sorted((folder / "tables").glob("*.md")), *sorted((folder / "figures").glob("*.png"))]
    contents, parts = [], []
    for name in names:
        own = [path for path in artefacts if _belongs(path.stem, name)]
        artefacts = [path for path in artefacts if path not in own]
        heading, section = _section(name, own, folder)
        contents.append(f'<li><a href="#{name}">{heading}</a></li>')
        parts.append(section)
    if artefacts:
        more = "\n".join(_artefact(path, folder) for path in artefacts)
        parts.append(f"<section>\n<h2>More tables and figures</h2>\n{more}\n</section>")
    title = f"freelib, profile {folder.name}"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f"<h1>{html.escape(title)}</h1>\n<nav><ul>\n" + "\n".join(contents) + "\n</ul></nav>\n"
        f"{_facts(folder)}\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    path = folder / "index.html"
    write_atomically(path, page.encode())
    return path


def _belongs(artefact: str, notebook: str) -> bool:
    """`table1_bars` belongs to `01_table1`."""
    subject = notebook.partition("_")[2] or notebook
    return artefact == subject or artefact.startswith((f"{subject}_", f"{subject}-"))


def _section(name: str, artefacts: Sequence[Path], folder: Path) -> tuple[str, str]:
    """The heading of a notebook's section, and the section."""
    link = f"notebooks/{name}.ipynb"
    cells = read_notebook(folder / link).cells
    heading, above, left = html.escape(name), "", list(artefacts)
    below: list[str] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            titled, text = re.findall(r"\A(#+ [^\n]*\n*)?(.*)\Z", cell.source, re.DOTALL)[0]
            if titled.startswith("# "):
                heading = html.escape(titled[2:].strip())
                below.append(markdown_html(text.partition("\n\n")[0]))
                text = ""
            above = markdown_html(text) if titled else above
            continue
        for path in [path for path in left if f'"{path.stem}")' in cell.source]:
            below += [above, _artefact(path, folder)]
            above = ""
            left.remove(path)
        printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
        below += [f"<pre>{html.escape(printed)}</pre>"] if printed else []
    broken = any(out.output_type == "error" for cell in cells for out in cell.get("outputs", ()))
    state = ' <span class="failed">broke off: see its last cell</span>' if broken else ""
    opening = f'<h2>{heading}</h2>\n<p><a href="{link}">The executed notebook</a>{state}</p>'
    below += [_artefact(path, folder) for path in left]
    return heading, "\n".join([f'<section id="{name}">\n{opening}', *below, "</section>"])


def _artefact(path: Path, folder: Path) -> str:
    """A table or a picture, and the links to its files."""
    if path.suffix == ".md":
        shown, other = markdown_html(path.read_text(encoding="utf-8")), path.with_suffix(".csv")
    else:
        picture = base64.b64encode(path.read_bytes()).decode()
        shown = f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{picture}"></p>'
        other = path.with_suffix(".pdf")
    links = [_link(file, folder) for file in (path, other) if file.exists()]
    return f"{shown}\n<p>{' · '.join(links)}</p>"


def _link(path: Path, folder: Path) -> str:
    target = os.path.relpath(path, folder).replace(os.sep, "/")
    return f'<a href="{html.escape(target)}">{html.escape(path.name)}</a>'


def _facts(folder: Path) -> str:
    """A table on the records: how many, from when, on what, with which versions."""
    rows = facts(RecordStore(folder / "records"))
    if not rows:
        return "<p>No records yet.</p>"
    cells = "".join(
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>\n" for name, value in rows.items()
    )
    return f"<table><tbody>{cells}</tbody></table>"


def facts(store: RecordStore) -> dict[str, str]:
    """On a store's records: how many, from when, on what, with which versions; empty where there is none."""
    records = [record for experiment in store.experiments() for record in store.all(experiment)]
    if not records:
        return {}
    unique = {record["config_digest"]: record for record in records}.values()
    days = sorted(record["started"][:10] for record in unique)
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return {
        "records": str(len(unique)),
        "started": span,
        "time in training and test": duration(spent(unique)),
        "time in measurements": duration(sum((r["seconds"] or {}).get("measurement", 0.0) for r in unique)),
        "processor": _values(unique, "cpu"),
        "device": _values(unique, "device"),
        "threads": _values(unique, "threads"),
        "instruction set": _values(unique, "instruction_set"),
        "Python": _values(unique, "python"),
        "torch": _values(unique, "torch"),
        "freelib": _values(unique, "freelib_version"),
    }


def spent(records: Iterable[Record]) -> float:
    """Seconds of training and test of some runs; a training that several records share counts once."""
    trainings = {}
    test = 0.0
    for record in records:
        seconds = record["seconds"] or {}
        key = tuple(record[name] for name in ("method", "dataset", "seed", "started", "git_commit"))
        trainings[key, seconds.get("training", 0.0)] = seconds.get("training", 0.0)
        test += seconds.get("test", 0.0)
    return sum(trainings.values()) + test


def _values(records: Iterable[Record], field: str) -> str:
    return ", ".join(sorted({str(record[field]) for record in records}))


def duration(seconds: float) -> str:
    """`3 h 05 min`, `4 min 10 s` or `12 s`."""
    total = round(seconds)
    if total >= 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 60} min {total % 60:02d} s" if total >= 60 else f"{total} s"


def markdown_html(text: str) -> str:
    """HTML of Markdown, such as `Table.markdown` writes; HTML in the text is shown as it is written."""
    return str(_MARKDOWN(text))
