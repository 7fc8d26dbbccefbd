"""Studies of P. Kirichenko's thesis (Higher School of Economics, 2018) on direction and magnitude noise.

Beyond the thesis: every noise of the weights' direction also with local sampling and flipout, and von Mises-Fisher.
"""
