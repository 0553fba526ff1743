"""Where runs came from, how they differ, and the resources they use now."""
