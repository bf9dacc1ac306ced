"""Floor 4: the served lab. FastAPI and Panel pages over the floors below; it is handed a `Lab` and never imports it."""
