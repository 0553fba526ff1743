"""Where the two halves meet: language-model work recorded as runs."""
