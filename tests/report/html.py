"""What a browser would make of a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

EVIL = '<script>alert("x")</script> & more'


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what a reader or a browser would use."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.texts = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def check_page(text):
    """A whole page that loads nothing, with unique ids and colours of the theme alone."""
    page = Page(text)
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert set(re.findall(r"url\((.*?)\)", text)) <= {f"#{i}" for i in page.ids}
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in text
    assert page.tags.count("svg") == page.tags.count("figcaption")
    assert text.count('role="img" aria-label=') == page.tags.count("svg")
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#[0-9a-f]{6}\b", text.partition("</style>")[2])
    assert "<script>" not in text
    return page
