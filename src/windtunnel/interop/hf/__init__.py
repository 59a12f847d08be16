"""Hugging Face: weights of known families both ways, with equal logits."""
