"""The studies of P. Kirichenko's thesis (Higher School of Economics, 2018) on direction and magnitude noise.

| command | thesis |
|---|---|
| direction-tables | Tables 1 and 2: kinds of noise against the size of the training set |
| direction-variational | Table 3 and Figure 6: the variational model on three LeNets, and its posteriors |
| direction-mean-weights | Figures 3 to 5 (and 8 to 10): networks trained with projected noise fail without it |
| direction-angles | Figures 11 to 14: by how much each noise turns a vector of 1,000 dimensions |
| direction-gradients | section 4.2: the gradient's variance by shared, flipout and local sampling |

Beyond the thesis: every noise of the weights' direction also with local sampling and flipout, and von Mises-Fisher.
"""
