"""Every link of the built pages that stays on them: is its target there, and its anchor?

python docs/dead_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page points to, what can be pointed to in it, and what it loads from elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loads = [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        for name in ("href", "src"):
            if given.get(name):
                self.links.append(given[name])
                if tag in ("script", "img") or (tag == "link" and given.get("rel") == "stylesheet"):
                    self.loads.append(given[name])


def dead(root):
    """A line for each link that leads nowhere, and for each file that a reader without network would miss."""
    paths = (path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts)  # templates of the theme
    pages = {path.resolve(): Page(path) for path in paths}
    for path, page in pages.items():
        for load in page.loads:
            if urlsplit(load).netloc:
                yield f"{path.relative_to(root)}: loads {load}"
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{path.relative_to(root)}: {link}: no such file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(root)}: {link}: no such anchor"


if __name__ == "__main__":
    lines = list(dead(Path(sys.argv[1]).resolve()))
    print(*lines, f"{len(lines)} dead links", sep="\n")
    raise SystemExit(bool(lines))
