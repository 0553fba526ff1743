"""Reading text: tokenizer, sources, readers, token cache, split into training and held-out text."""
