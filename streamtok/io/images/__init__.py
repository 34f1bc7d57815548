"""Picture files: one picture, and folders of them as recordings."""
