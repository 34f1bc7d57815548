from tests.kit.engine import kernel_of, own_cache, same_threads

__all__ = ["kernel_of", "own_cache", "same_threads"]
