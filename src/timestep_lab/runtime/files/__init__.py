"""A user's files, text extraction, and vector stores for search."""
