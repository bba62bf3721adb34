"""The evaluators, one a file; `llamavae.evaluation.registry` lists them by name."""
