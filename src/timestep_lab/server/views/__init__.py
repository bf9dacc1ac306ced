"""The views of the served app's pages: each one Python class here and one ES module in `ui/static/pages/`."""
