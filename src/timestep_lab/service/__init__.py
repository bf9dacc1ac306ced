"""The operations of a lab. Each is one typed method, from which the HTTP route and the remote call are generated."""
