"""The classes of other libraries with their names and calls, on our tokenizers."""
