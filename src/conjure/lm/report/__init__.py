"""The report of a fine-tune: what the model learned, measured, judged in words, written as JSON and HTML."""
