"""The index page of a profile: every table and figure, the notebooks behind them, hardware and time."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable
from pathlib import Path

from freelib.records import Record, RecordStore
from freelib.storage import write_atomically

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; margin: 1rem 0; }
caption { text-align: left; font-style: italic; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { background: var(--soft); }
img { max-width: 100%; background: white; padding: .5rem; box-sizing: border-box; border-radius: 4px; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
.failed { color: #c33; font-weight: bold; }
"""


def write_index(folder: str | Path, *, notebooks: Iterable[str] = (), failed: Iterable[str] = ()) -> Path:
    """Write `<folder>/index.html` from what lies in the folder of a profile's results, and return its path.

    Sections are the notebooks in `notebooks/`, those named in `notebooks` first, in that order; a table or
    figure belongs to the notebook that bears its name. Pictures are embedded, links are relative: the page
    can be moved along with its folder, or read alone. failed: notebooks whose last run broke off.
    """
    folder = Path(folder)
    present = sorted(path.stem for path in (folder / "notebooks").glob("*.ipynb"))
    names = [name for name in notebooks if name in present]
    names += [name for name in present if name not in names]
    artefacts = [*sorted((folder / "tables").glob("*.md")), *sorted((folder / "figures").glob("*.png"))]
    parts = [_facts(folder)]
    for name in names:
        own = [path for path in artefacts if _belongs(path.stem, name)]
        artefacts = [path for path in artefacts if path not in own]
        parts.append(_section(name, own, folder, broken=name in set(failed)))
    if artefacts:
        parts.append(_section("", artefacts, folder, broken=False))
    title = f"freelib, profile {folder.name}"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n"
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    path = folder / "index.html"
    write_atomically(path, page.encode())
    return path


def _belongs(artefact: str, notebook: str) -> bool:
    """`table1_bars` belongs to `01_table1`."""
    subject = notebook.partition("_")[2] or notebook
    return artefact == subject or artefact.startswith((f"{subject}_", f"{subject}-"))


def _section(name: str, artefacts: Iterable[Path], folder: Path, *, broken: bool) -> str:
    lines = []
    if name:
        link = f"notebooks/{name}.ipynb"
        state = ' <span class="failed">broke off: see its last cell</span>' if broken else ""
        lines.append(
            f'<h2>{html.escape(name)}</h2>\n<p><a href="{link}">The executed notebook</a>{state}</p>'
        )
    else:
        lines.append("<h2>More tables and figures</h2>")
    for path in artefacts:
        if path.suffix == ".md":
            lines.append(markdown_table(path.read_text(encoding="utf-8")))
            other = path.with_suffix(".csv")
        else:
            picture = base64.b64encode(path.read_bytes()).decode()
            lines.append(f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{picture}"></p>')
            other = path.with_suffix(".pdf")
        links = [file for file in (path, other) if file.exists()]
        lines.append("<p>" + " · ".join(_link(file, folder) for file in links) + "</p>")
    return "<section>\n" + "\n".join(lines) + "\n</section>"


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


def markdown_table(text: str) -> str:
    """HTML of what `Table.markdown` writes: paragraphs, and rows of cells between bars; **bold** in both.

    A bar behind a backslash is a cell's own.
    """

    def inline(words: str) -> str:
        return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(words.strip().replace("\\|", "|")))

    lines, out, in_table = text.splitlines(), [], False
    for number, line in enumerate(lines):
        is_row = line.startswith("|")
        if is_row and not in_table:
            out.append("<table>")
        if in_table and not is_row:
            out.append("</table>")
        if is_row:
            if not set(line) <= set("|-: "):
                ahead = (
                    number + 1 < len(lines) and set(lines[number + 1]) <= set("|-: ") and lines[number + 1]
                )
                tag = "th" if ahead else "td"
                cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
                row = (f"<{tag}>{inline(cell)}</{tag}>" for cell in cells)
                out.append("<tr>" + "".join(row) + "</tr>")
        elif line.strip():
            out.append(f"<p>{inline(line)}</p>")
        in_table = is_row
    return "\n".join([*out, "</table>"] if in_table else out)
