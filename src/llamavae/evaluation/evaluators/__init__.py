"""The evaluators, one per file; `llamavae.evaluation.registry` lists them by name."""
