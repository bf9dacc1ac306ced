"""The lab's own HTTP API, under `/api/v1`. One module per resource, each with a `router`."""
