"""One file is one kind of answer that arrays of label ids or numbers cannot hold: its metrics, and what was answered wrongly.

Each has `METRICS`, a tuple of `Metric`, and `errors(rows, truth, scores, count)`, a list for `Report.errors`.
"""
