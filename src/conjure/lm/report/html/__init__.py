"""The report and the comparison as pages: one HTML file each, with everything in it."""
