"""The models: one decoder, the families of checkpoints it reads, and what every architecture promises."""
