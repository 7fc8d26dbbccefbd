"""Clean weights in other people's training loops: evaluate, save and resume without noise by mistake.

clean_weights(...)            any loop: a block in which the weights of an optimizer, or of what wraps it, are clean
nvrm_fast.integrations.lightning      a callback for PyTorch Lightning
nvrm_fast.integrations.accelerate     evaluation blocks, save_state and load_state for Hugging Face Accelerate
nvrm_fast.integrations.transformers   a callback for the Hugging Face Trainer

None of these libraries is imported before its module here is.
"""

from .wrappers import clean_weights, find_optimizers

__all__ = ["clean_weights", "find_optimizers"]
