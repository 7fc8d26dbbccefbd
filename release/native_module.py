"""Takes the native module, and what was built, out of a wheel into this tree: `native_module.py WHEEL`."""

import sys
import zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = [name for name in wheel.namelist() if name.endswith((".so", "/_build_facts.json"))]
    if len(names) != 2:
        sys.exit(f"{sys.argv[1]} has no native module: {names}")
    wheel.extractall(Path(__file__).parents[1], names)
