"""Small pieces both halves stand on: settings, the home folder, safe files, secrets."""
