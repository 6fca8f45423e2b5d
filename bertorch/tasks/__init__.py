"""What is asked of an encoder: a folder for each task, with the same names in each."""
