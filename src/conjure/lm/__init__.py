"""The language-model half: GPT-2 class models that generate, fine-tune and score."""
