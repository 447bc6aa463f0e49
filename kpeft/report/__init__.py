"""From the folders of runs to a page and to Markdown: `python -m kpeft.report FOLDER`.

No module here loads Keras or JAX, and none but `figures` loads matplotlib.
"""
