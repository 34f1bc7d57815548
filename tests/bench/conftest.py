from tests.kit.engine import own_cache, same_threads

__all__ = ["own_cache", "same_threads"]
