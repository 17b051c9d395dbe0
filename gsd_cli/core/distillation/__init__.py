"""Geometric Score Distillation: the losses and the step that trains the generator."""
