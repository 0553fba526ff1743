"""Text in: tokenizer, sources, readers, token cache, held-out part."""
