"""Pruning of stochastic networks (SE-SNN, section 4.1, appendices B.1 and B.2): a command and its parts."""
