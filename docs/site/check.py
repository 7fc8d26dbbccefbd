"""What a built site must not do: fetch anything from elsewhere, or show a formula that was not turned into MathML."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FETCHES = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"')


def faults(site: Path) -> list[str]:
    """One line for each fault, empty if there is none."""
    found = []
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        text = page.read_text()
        name = page.relative_to(site)
        found += [f"{name} fetches {url}" for url in FETCHES.findall(text)]
        if 'class="arithmatex"' in text:
            found.append(f"{name} has a formula that is not MathML")
    for style in site.rglob("*.css"):
        found += [
            f"{style.relative_to(site)} fetches {url}" for url in re.findall(r"url\((https?:[^)]+)", style.read_text())
        ]
    if len(pages) < 30:
        found.append(f"only {len(pages)} pages")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(sys.argv[1]))) or None)
