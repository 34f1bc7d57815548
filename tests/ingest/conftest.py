from tests.kit.engine import load_kernel, own_cache, same_threads

__all__ = ["load_kernel", "own_cache", "same_threads"]
