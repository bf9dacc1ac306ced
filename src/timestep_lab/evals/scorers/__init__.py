"""Scorers: measure the quality of answers. `make_scorers` accepts every notation; `known` lists the names."""
