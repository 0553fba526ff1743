"""The run half: any command as a numbered, isolated, reproducible run."""
