"""One file a provider, found by its name: `providers/<prefix>.py` holds a class `Provider`.

A package of your own joins by an entry point in the group `timestep_lab.providers`, named as the prefix, that loads such a class.
"""
