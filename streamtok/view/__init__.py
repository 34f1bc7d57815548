"""`streamtok view`: a page in a browser that shows live streams, as one more reader of their nodes, and recordings."""
