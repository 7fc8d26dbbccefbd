"""`import nvrm_fast` costs what `import torch` costs."""

import subprocess
import sys
from pathlib import Path

import nvrm_fast

CODE = """
import sys
import torch
before = set(sys.modules)
import nvrm_fast
heavy = ("torch._dynamo", "torch._inductor", "sympy", "triton")
print(*sorted(name for name in set(sys.modules) - before if name.startswith(heavy)))
"""


def test_no_compiler_is_imported():
    root = str(Path(nvrm_fast.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
