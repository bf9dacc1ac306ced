"""Floor 6: the served lab: FastAPI routes and Panel pages. It is given a `Lab` and does not import it."""
