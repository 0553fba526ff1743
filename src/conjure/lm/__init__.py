"""The language-model half: small language models that generate, fine-tune and score."""
