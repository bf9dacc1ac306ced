"""Numbered SQL, one folder a dialect. A file that was released is never edited; `store/migrate.py` runs them."""
