"""What a fine-tuned model learned: measured, judged in plain words, and written as JSON and HTML."""
