"""Ladders: architectures scaled to several sizes and budgets, and what that says of larger ones."""
