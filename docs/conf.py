"""The book: notebooks as they were executed, guide, results, API. `make book` lays out its sources and builds it.

Nothing in a page comes from the network: MathJax is a file of a Python package, fonts are the system's.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils import new_document
from myst_parser.mdit_to_docutils.sphinx_ import SphinxRenderer
from myst_parser.parsers.mdit import create_md_parser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import freelib

profile = os.environ.get("PROFILE", "cpu")
repository = os.environ.get("GITHUB_REPOSITORY")  # owner/name, where a workflow builds the book

project, author, version = "freelib", "the freelib authors", freelib.__version__
extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["docs/**", "CONTRIBUTING.md", "notebooks/*.ipynb", "results/*.md", "results/cpu/tables/*.md"]
exclude_patterns = [
    "docs/pages",  # what results/README.md is filled in from
    "docs/api/modules.rst",  # apidoc's own list of packages
]
templates_path = ["templates"]

os.environ["SPHINX_APIDOC_OPTIONS"] = "members"  # of a package, apidoc takes them from here alone
apidoc_modules = [
    {"path": str(Path(freelib.__file__).parent), "destination": "docs/api", "max_depth": 1, "module_first": True}
]
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_use_type_comments = False
python_use_unqualified_type_names = True

myst_enable_extensions = ["amsmath", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"profile": profile}
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
smartquotes = False
mathjax_path = "tex-svg.js"
mathjax_options = {"defer": "defer"}

html_theme = "pydata_sphinx_theme"
html_title = f"freelib {version}"
html_static_path = [
    "static/style",
    *(str(file.locate()) for file in files("sphinx-mathjax-offline") or () if file.name == mathjax_path),
]
html_css_files = ["book.css"]
html_extra_path = ["static/root"]
html_sourcelink_suffix = ""
html_show_search_summary = False  # it is fetched, which a page that was opened from a file may not do
html_context = {"default_mode": "auto", "repository": repository}
html_theme_options: dict[str, Any] = {
    "announcement": "" if profile == "cpu" else f"Notebooks as they were executed with the profile {profile}.",
    "footer_start": [],
    "footer_end": [],
    "logo": {"text": "freelib"},
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc", "launch"],
    "show_toc_level": 2,
}
if repository:
    html_theme_options["github_url"] = f"https://github.com/{repository}"


class Markdown(SphinxDirective):
    """Its content, read as Markdown in which `<class>` is no HTML."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The nodes of the content."""
        document = new_document("", self.state.document.settings)
        settings = replace(self.env.myst_config, disable_syntax=["html_inline", "html_block"])
        parser = create_md_parser(settings, SphinxRenderer)
        parser.options["document"] = document
        parser.render("\n".join(self.content))
        return document.children


def as_markdown(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are Markdown: `images: what they are; labels: theirs` becomes a list, an example becomes code."""
    text = re.sub(r"(?:\n|; )([a-z_]\w*(?:, \w+)*): ", r"\n- `\1`: ", "\n".join(lines))
    text = re.sub(r"(?m)^(>>> .*\n(?:.+\n?)*)", r"```pycon\n\1\n```\n", text)
    if text:
        lines[:] = [".. markdown::", "", *(f"   {line}" for line in text.splitlines()), ""]


def skip_routing(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """What scikit-learn adds to an estimator for its metadata routing is not ours to document."""
    return skip or re.fullmatch(r"set_\w+_request", name) is not None


def describe_figures(app: Sphinx, document: nodes.document) -> None:
    """A notebook's figures have no alternative text: they get their section's title."""
    for image in document.findall(nodes.image):
        section = image.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        if section is not None and not image.get("alt"):
            image["alt"] = f"Figure: {section[0].astext()}"


def name_tables(app: Sphinx, page: str, source: list[str]) -> None:
    """A table of the results is a page of its own, outside of the navigation, under its file's name."""
    if page.startswith("results/cpu/tables/"):
        source[0] = f"---\norphan: true\n---\n# {Path(page).name}\n\n{source[0]}"


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls first."""
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("autodoc-skip-member", skip_routing)
    app.connect("source-read", name_tables)
    app.connect("doctree-read", describe_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
