"""Sphinx configuration. ``make docs`` builds with warnings as errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import graphfathom

DOCS = Path(__file__).parent
GENERATED = DOCS / "generated"

project = "GraphFathom"
author = "GraphFathom authors"
copyright = "2026, GraphFathom authors"
release = version = graphfathom.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "generated"]
templates_path = ["_templates"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_title = f"GraphFathom {release}"

myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [
    "Shapes",
    "Differs from the paper",
    ("Glossary", "params_style"),
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"example_",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "reset_modules": ("matplotlib",),
    "show_memory": False,
    "show_signature": False,
}

RULE = """## {name}

{summary}

:Needs: {needs}
:Threshold: {threshold}
:Source: {source}
"""


def findings_page() -> str:
    """The rules of :mod:`graphfathom.diagnostics.findings`, in order of precedence."""
    from graphfathom.diagnostics.findings import RULES

    return "\n".join(
        RULE.format(
            name=rule.name,
            summary=rule.summary,
            needs=", ".join(f"`{name}`" for name in rule.needs) or "nothing",
            threshold=rule.threshold,
            source=rule.source,
        )
        for rule in RULES
    )


def monitored_table() -> str:
    """The list of what a monitor records."""
    from graphfathom.monitoring import MEASURES

    rows = (
        f"| `{name}` | {measure.meaning.replace('`step`', '`monitor.step`')} "
        f"| {measure.unit} |"
        for name, measure in MEASURES.items()
    )
    return "\n".join(["| name | what it is | unit |", "|---|---|---|", *rows]) + "\n"


def write_pages(app: Sphinx) -> None:
    """Write what is made from code, where it differs from the last time."""
    GENERATED.mkdir(exist_ok=True)
    pages = {"findings": findings_page(), "monitored": monitored_table()}
    for name, text in pages.items():
        page = GENERATED / f"{name}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


TABLES = {"layers": "conv_table", "models": "model_table"}
"""Page -> the table in it, written by the script of that name."""


def insert_table(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a table, without its title, into its page."""
    table = TABLES.get(docname)
    if table is None:
        return
    page = GENERATED / f"{table}.md"
    text = f"Run `python docs/{table}.py` to make the table.\n"
    if page.exists():
        title, _, body = page.read_text().partition("\n")
        text = body if title.startswith("# ") else f"{title}\n{body}"
    source[0] = source[0].replace(f"<!-- {table} -->", text)


def skip_other_homes(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Describe an object on the page of its own module, not where it is repeated."""
    page = app.env.docname.removeprefix("api/")
    home = getattr(obj, "__module__", None) or page
    elsewhere = home.startswith("graphfathom.") and home != page
    return True if what == "module" and elsewhere else None


def setup(app: Sphinx) -> None:
    """Connect the generators."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", insert_table)
    app.connect("autodoc-skip-member", skip_other_homes)
