from tests.kit.engine import load_kernel, own_cache

__all__ = ["load_kernel", "own_cache"]
