"""A user's files, text extraction, and vector stores for search."""

from __future__ import annotations

from timestep_lab.runtime.files.files import Files, Uploads
from timestep_lab.runtime.files.vector_stores import VectorStore, VectorStores

__all__ = ["Files", "Uploads", "VectorStore", "VectorStores"]
