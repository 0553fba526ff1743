"""Model architectures: one decoder, the families of checkpoints it reads, and the interface of all models."""
