"""Looking at runs: where they came from, how they differ, what they use now."""
