"""Hypernetworks: parameters of architectures that were never trained."""
