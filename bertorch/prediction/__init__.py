"""What predict.py does for each task: read rows, compute answers, print figures, write a line a row."""
