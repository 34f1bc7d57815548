"""A page in a browser that shows streams as they come, and recordings: `streamtok view`. One more reader, no more."""
