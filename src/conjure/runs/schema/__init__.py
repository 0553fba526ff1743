"""What a run is: its specification, its record, its status."""
