"""Readers for files that are no tables of labelled texts: each brings one form to records with the standard fields of its task."""
