"""The studies of networks with stochastic layers (SE-SNN) as commands."""
