"""Makes a tokenizer fast on this machine: precision, CUDA graphs, compilation, kernels.

from streamtok.engine import optimize

fast = optimize(streamtok.load("nano"), size=(256, 448))   # measured once, stored, reused
"""

from streamtok.engine.configuration import EngineConfiguration, EngineError
from streamtok.engine.tuning import optimize

__all__ = ["EngineConfiguration", "EngineError", "optimize"]
