"""One run of fairseq: its settings, its paths, and what our tasks share."""
