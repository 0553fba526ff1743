"""The code that a run starts from: listed, stored, written out."""
