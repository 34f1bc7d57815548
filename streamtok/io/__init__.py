"""Where frames come from and where tokens go."""
