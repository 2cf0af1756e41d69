"""The report as one HTML file: style, script, data and images inside, nothing fetched when it is opened.

`gather_content` gathers what the page shows, `render_page` puts it into `page.html`. Completions are untrusted text:
they stand in the page as JSON without a single `<`, and the script only ever makes text nodes of them. A content
security policy names the page's one script by its hash, so that nothing else can run.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from emor3_trl.files import write_text
from emor3_trl.report.page.content import gather_content

__all__ = ["find_policy", "gather_content", "inert_json", "render_page", "write_page"]

# In the order of the page; together they are one script
SCRIPTS = (
    *("dom", "terms", "results", "calibration", "curves", "training", "story"),
    *("confusion", "cards", "gallery", "live", "main"),
)


def render_page(page: Mapping[str, Any]) -> str:
    """Return the page; one that is `live` asks its server for what has changed.

    Args:
        page: what it shows, see `gather_content`; JSON values.
    """
    style, script = _read_asset("page.css"), "\n".join(_read_asset(f"{name}.js") for name in SCRIPTS)
    return Template(_read_asset("page.html")).substitute(
        title=html.escape(str(page["title"])),
        style=style,
        script=script,
        data=inert_json(page),
        policy=_format_policy(style, script, bool(page.get("live"))),
    )


def find_policy(html_text: str) -> str:
    """Return the content security policy that stands in a page, for a server to send as well."""
    return html.unescape(html_text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0])


def write_page(page: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page, all or nothing, and return its path."""
    write_text(path, render_page(page))
    return Path(path)


def inert_json(value: Any) -> str:
    r"""Return JSON in ASCII that holds no markup, whatever its strings hold.

    >>> inert_json("</script>&\u2028")
    '"\\u003c/script\\u003e\\u0026\\u2028"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _format_policy(style: str, script: str, live: bool) -> str:
    """Return what the page may do: show its own images, style and script, and nothing of the data's."""
    return "; ".join(
        [
            "default-src 'none'", "img-src data:", f"style-src {_hash(style)}", f"script-src {_hash(script)}",
            "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
            *(["connect-src 'self'"] if live else []),
        ]
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read_asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
