"""The studies of the NVRM paper (Xie et al., 2021)."""
