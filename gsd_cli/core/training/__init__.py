"""What every training has in common, and the trainings that are not distillation."""
