"""Judges tokenizers: `evaluate` measures clips, `suite` runs every measurement, `report` writes the results."""
