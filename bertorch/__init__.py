"""bertorch: fine-tune BERT-family encoders with scripts that read top to bottom."""

__version__ = "0.1.0"
