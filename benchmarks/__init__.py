"""Performance as ratios to named peers, measured side by side: ``make bench``."""
