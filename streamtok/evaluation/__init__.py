"""Judging a tokenizer: `suite` runs it all, `evaluate` judges clips, `report` writes what was found."""
