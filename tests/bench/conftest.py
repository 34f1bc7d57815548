from tests.kit.engine import own_cache

__all__ = ["own_cache"]
