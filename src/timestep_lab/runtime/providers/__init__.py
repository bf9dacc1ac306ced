"""Model providers: `providers/<prefix>.py` contains a class `Provider`.

A third-party package adds a provider with an entry point in the group `timestep_lab.providers`, named like the prefix, that loads such a
class.
"""
