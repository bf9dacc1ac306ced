"""`Lab("http://…", token=…)`: a served lab with the interface of a local one, over its authenticated HTTP API."""
