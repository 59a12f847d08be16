"""Search: which configuration of a space is best, by batches of trials asked from Optuna."""
