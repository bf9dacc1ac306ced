"""The lab's own HTTP interface, under `/api/v1`. One module a resource; each holds one `router`."""
