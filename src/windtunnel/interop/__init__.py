"""Ways in and out: other programs' weights, and trackers of experiments."""
