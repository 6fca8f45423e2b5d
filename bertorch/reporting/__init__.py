"""Reading a run: what an evaluation keeps for its report, the report itself, and the comparison of runs."""
