"""What a hypernetwork's parameters are worth: against tuned initialisations and honest rivals."""
