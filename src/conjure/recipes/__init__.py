"""Language-model work recorded as runs: connects `runs` and `lm`."""
