"""Stochastic networks under adversarial attack (SE-SNN, section 4.2)."""
