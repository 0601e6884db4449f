"""What people decide about labels, and what is learned from it."""
