"""Task heads. A head owns its encoder; its ``forward(batch)`` returns the ``Loss`` that the training loop uses."""
