"""The pages of runs, measured in Chromium: `web_pages.py` is what is run."""
