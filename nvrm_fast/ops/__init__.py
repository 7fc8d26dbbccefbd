"""The operators: schemas, the registry of their kernels, and the calls that optimizers and layers make."""
