"""One file is one task, with the same five names in each: prepare, head, loss, decode, METRICS, and the TaskSpec they share."""
