"""The page as one HTML file: hostile text stays text, nothing is fetched, every asset is packaged."""

import configparser
import json
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emor3_trl.report.page import render_page

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<!--<script>",
    "line\u2028separator\u2029 and \u202eright to left",
    "\x00 nothing ]]> &amp; \\u003c $data $script ${title}",
]


class Page(HTMLParser):
    """Collects the elements of a page and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_markup(text):
    plain, hostile = (Page(render_page({"title": "t", "cases": [one]})) for one in ("harmless", text))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.scripts[0]) == {"title": "t", "cases": [text]}
    assert hostile.scripts[0].isascii()
    assert not set("<>&") & set(hostile.scripts[0])
    assert Page(render_page({"title": text})).tags == plain.tags


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none()))
def test_any_text_survives_the_page(values):
    page = {"title": "t", "values": values}
    assert json.loads(Page(render_page(page)).scripts[0]) == page


def test_the_page_asks_for_nothing_and_names_its_script():
    text = render_page({"title": "t"})
    for word in ("http:", "https:", "@import", "innerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text.replace("http://www.w3.org/2000/svg", ""), word
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text


def test_every_asset_is_packaged():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")
    patterns = setup["options.package_data"]["emor3_trl.report.page"]
    for asset in files("emor3_trl.report.page").iterdir():
        if asset.is_file() and not asset.name.endswith(".py"):
            assert f"*{Path(asset.name).suffix}" in patterns
