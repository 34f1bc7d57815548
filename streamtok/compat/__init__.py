"""Drop-in classes with the names and calls of other libraries, on our tokenizers."""
