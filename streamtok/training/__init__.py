"""Trains tokenizers (`loop`), codebooks of refining ones (`refinement`) and token coders (`coder_loop`)."""
