"""Floor 3: data sets, scorers, comparisons and their statistics. Imports only floors 0 to 2; scipy and numpy are
imported on first use.
"""
