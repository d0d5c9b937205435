"""What selectors do with planted copies and noise, and how stable they are."""
