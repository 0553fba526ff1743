"""Fine-tuning: plan, packing, training loop, saved state."""
