"""Files of a user, the text in them, and vector stores to search it."""

from __future__ import annotations

from timestep_lab.runtime.files.files import Files, Uploads
from timestep_lab.runtime.files.vector_stores import VectorStore, VectorStores

__all__ = ["Files", "Uploads", "VectorStore", "VectorStores"]
