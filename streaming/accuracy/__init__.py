"""Live accuracy: predictions are joined with the actual values that come after them, and drift is told."""
