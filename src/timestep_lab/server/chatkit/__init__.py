"""The ChatKit protocol of `openai-chatkit` over a lab: its store, its server, its routes.

Nothing here is imported before the first ChatKit request but `routes`: the SDK takes seconds to import.
"""
