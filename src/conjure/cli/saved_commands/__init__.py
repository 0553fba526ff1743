"""Options and arguments of a command in a file: written by `--save-command`, read by `--from-file`."""
