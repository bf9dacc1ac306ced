"""Floor 3: datasets, scorers, comparisons and their statistics. Imports floors 0 to 2; scipy and numpy when first used."""
