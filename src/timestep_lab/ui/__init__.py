"""Floor 3: what people look at. Imports `types` and `store` only: a view is handed records and event iterators.

A view is a `View` (ui/view.py): state in Python, one ES module of its own (`static/<stem>.js`), shown alike in a notebook
(anywidget) and in the served app (Panel), with a static copy in plain HTML for saved notebooks.
"""
