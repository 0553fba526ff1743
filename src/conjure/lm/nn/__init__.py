"""Parts that models are built from, and the loss."""
