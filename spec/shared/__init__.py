"""What backends may import: argument checks, shapes, schedules and configurations. No arrays are computed here."""
