"""Numbered SQL files, one folder per dialect. A released file is never edited; `store/migrate.py` runs them."""
