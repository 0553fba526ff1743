"""Where the two halves meet: language-model work carried as runs."""
