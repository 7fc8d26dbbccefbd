"""The studies of noise injection nodes (Levi et al., 2022) as commands."""
