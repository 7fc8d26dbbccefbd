"""Forgetting over a row of tasks, and elastic weight consolidation (NVRM paper, section 4 (4))."""
