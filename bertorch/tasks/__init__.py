"""The tasks of an encoder: a folder for each, with the same module names in each."""
