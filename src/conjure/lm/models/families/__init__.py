"""The families of checkpoints that the decoder computes, one module each."""
