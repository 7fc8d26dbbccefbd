"""Accuracy under noise on the weights (NVRM paper, section 4 (1), Figures 1 and 8)."""
