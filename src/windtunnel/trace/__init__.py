"""Shapes, dtypes, memory and time of every step of a forward."""
