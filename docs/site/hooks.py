"""What the site needs beyond MkDocs: the repository's own tree as pages, and formulas without a script.

Pages lie on the site as they lie in the repository, so that a relative link between Markdown files (README to docs/,
docs/ to bench/) is right on a code host and on the site, and is written once.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: What of the repository is on the site; all else is code.
PATTERNS = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "docs/**/*.md", "docs/**/*.png",
    "docs/**/*.svg", "docs/site/*.css", "bench/README.md", "bench/results/*.md", "examples/*.md", "examples/*.py",
)  # fmt: skip
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config) -> Files:
    """The files of `docs_dir` give way to those of the repository, with paths from its root."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(page: str, **kwargs) -> str:
    """TeX to MathML, which browsers draw by themselves."""

    def formula(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]).strip(), display=display)

    return FORMULA.sub(formula, page)
