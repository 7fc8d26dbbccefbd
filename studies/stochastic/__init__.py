"""Studies of "Simple and Effective Stochastic Neural Networks" (SE-SNN)."""
