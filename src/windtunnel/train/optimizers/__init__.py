"""What moves the weights: one file an optimizer, found by the ``type`` of its config."""
