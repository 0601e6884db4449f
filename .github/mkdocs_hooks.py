"""Called by mkdocs: fills the reference from the definitions in the package."""

import re

import fastseg
from fastseg.learners.options import OPTIONS

MARKER = "<!-- options of a fit -->"


def options_table() -> str:
    """Return the options of a fit as a Markdown table."""
    rows = ["| option | type | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        kind = option.annotation.replace("|", "\\|")
        unit = f" In {option.unit}." if option.unit else ""
        rows.append(f"| `{option.name}` | {kind} | {option.described}{unit} |")
    return "\n".join(rows)


def entry(match: re.Match[str]) -> str:
    """Return the entry of a public name: where it is defined, under the name that users import."""
    name = match[1]
    path = f"fastseg.{fastseg._MODULE_OF[name]}.{name}"
    return f"::: {path}\n    options:\n      heading: fastseg.{name}"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill a page's text before it is rendered."""
    markdown = markdown.replace(MARKER, options_table())
    return re.sub(r"^::: fastseg\.(\w+)$", entry, markdown, flags=re.M)
