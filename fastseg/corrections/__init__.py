"""What people decide about labels: saved corrections, and whether later exports learned them."""
