"""``python -m conjure`` is the `conjure` command."""

from conjure.cli.main import main

if __name__ == "__main__":
    main()
