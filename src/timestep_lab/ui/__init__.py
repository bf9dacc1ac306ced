"""Floor 3: what people look at. Imports `types` and `store` only: a view is handed records and event iterators."""
