"""Studies of noise injection nodes (Levi et al., 2022)."""
