"""What every page of the package must satisfy: it is whole, it fetches nothing, and its links lead somewhere."""

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def check(page):
    """What every page of the package must satisfy."""
    reader = Reader(page)
    assert reader.open == []
    assert not {tag for tag, _ in reader.tags} & {"script", "iframe", "object", "embed", "form", "base", "audio", "svg"}
    for tag, attrs in reader.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcset", "srcdoc")], tag
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), attrs
        if tag == "img":
            assert attrs["alt"]
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "@import" not in page
    assert "url(" not in style
    assert not re.search(r"https?://", page)
    policy = next(attrs for _, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    identifiers = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in reader.tags:
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in identifiers
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    return reader
