"""Where frames come from, and where decoded pictures go."""
