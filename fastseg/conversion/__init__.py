"""An export in other formats."""
