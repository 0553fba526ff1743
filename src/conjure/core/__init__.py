"""What both halves use: settings, the home folder, safe file operations, secrets."""
