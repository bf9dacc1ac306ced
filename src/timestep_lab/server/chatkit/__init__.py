"""The ChatKit protocol of `openai-chatkit` on top of a lab: store, server and routes.

Only `routes` is imported before the first ChatKit request, because importing the SDK takes seconds.
"""
