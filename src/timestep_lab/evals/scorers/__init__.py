"""Scorers: what makes an answer good. `make_scorers` reads every form a user may write; `known` lists the names."""
