"""A real node and its readers under faults, for a while: does the node keep its promises? Linux only (/proc)."""
