"""Reports: examples from an evaluation, the report of a run, and the comparison of runs."""
