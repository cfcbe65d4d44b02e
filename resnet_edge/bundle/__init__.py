"""The unit that travels: a directory with a model, its proofs and the record of what made what."""
