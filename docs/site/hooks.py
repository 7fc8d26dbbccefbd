"""What the site needs beyond MkDocs: the repository's own tree as pages, and formulas without a script.

Pages lie on the site as they lie in the repository, so that a relative link between Markdown files (README to docs/,
docs/ to bench/) is right on a code host and on the site, and is written once.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
from pathlib import Path

from fontTools import subset
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
#: What of the repository is on the site; all else is code.
PATTERNS = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "CITATION.cff", "docs/**/*.md",
    "docs/**/*.png", "docs/**/*.svg", "docs/site/*.css", "bench/README.md", "bench/results/*.md",
    "bench/results/*.png", "examples/*.md", "examples/*.py", "studies/README.md",
)  # fmt: skip
#: A browser needs a mathematical font for roots and large brackets, and not every system has one: STIX Two Math (SIL
#: Open Font License), which ziamath brings, cut down to these characters.
FONT = Path(importlib.util.find_spec("ziamath").origin).parent / "fonts/STIXTwoMath-Regular.ttf"
CHARACTERS = (
    (0x20, 0x7E), (0xB1, 0xF7), (0x391, 0x3F5), (0x2010, 0x2044), (0x210E, 0x210E), (0x2190, 0x2194),
    (0x2200, 0x22C6), (0x1D434, 0x1D467), (0x1D53C, 0x1D54F), (0x1D6E2, 0x1D71B),
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
    for path in sorted(ROOT.glob("docs/*.ipynb")):
        files_of_notebook(path, files, config)
    files.append(File.generated(config, "docs/site/math.woff", content=_font()))
    return files


def files_of_notebook(path: Path, files: Files, config) -> None:
    """A page of a notebook, with the outputs that it was saved with."""
    name = path.relative_to(ROOT).with_suffix("")
    text, resources = MarkdownExporter().from_filename(str(path), resources={"output_files_dir": f"{path.stem}_files"})
    files.append(File.generated(config, f"{name}.md", content=text))
    for picture, content in resources["outputs"].items():
        files.append(File.generated(config, (name.parent / picture).as_posix(), content=content))


def _font() -> bytes:
    options = subset.Options(flavor="woff", layout_features=["*"])
    font = subset.load_font(str(FONT), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[code for first, last in CHARACTERS for code in range(first, last + 1)])
    cutter.subset(font)
    file = io.BytesIO()
    font.save(file)
    return file.getvalue()


def on_page_markdown(text: str, page, **kwargs) -> str:
    """The first page has a wide table, and no neighbors to navigate to. Links to notebooks lead to their pages."""
    if page.file.src_uri == "README.md":
        page.meta["hide"] = ["navigation"]
    return re.sub(r"\]\(([\w/.]+)\.ipynb\)", r"](\1.md)", text)


def on_page_content(text: str, **kwargs) -> str:
    """TeX to MathML, which browsers draw by themselves."""

    def formula(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]).strip(), display=display)

    return FORMULA.sub(formula, text)
