"""What computes logits while text is generated: in torch, in C, as a CUDA graph."""
