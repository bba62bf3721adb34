"""Training: objective schedules, diagnostics, recipes and the trainer."""
