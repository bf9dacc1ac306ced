"""Floor 0: what every other floor speaks of. Frozen records and the error tree, from the standard library only."""
