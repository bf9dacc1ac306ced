"""The operations of a lab: each is one typed method, from which the HTTP route and the remote call are made."""
