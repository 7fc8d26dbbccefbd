"""Stochastic networks against wrong labels (SE-SNN, section 4.3 and appendix B)."""
