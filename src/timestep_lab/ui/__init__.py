"""Floor 5: the views. Imports only `model`, `resources`, `store` and `service`: a view is given records and event
iterators.

A view is a `View` (ui/view.py): state in Python and one ES module (`static/<stem>.js`), shown in a notebook (anywidget)
and in the served app (Panel), with a static HTML copy for saved notebooks.
"""
