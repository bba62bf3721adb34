"""Evaluation of a system on held-out sentences, with controls and confidence intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.evaluation.comparison import compare
    from llamavae.evaluation.data import evaluation_data
    from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator
    from llamavae.evaluation.refined import RefinedSystem
    from llamavae.evaluation.registry import EVALUATORS, SUITES, load_evaluator
    from llamavae.evaluation.results import Found, Results, read_results
    from llamavae.evaluation.suite import evaluate

__all__ = [
    "EVALUATORS",
    "SUITES",
    "Evaluation",
    "EvaluationData",
    "Evaluator",
    "Found",
    "RefinedSystem",
    "Results",
    "compare",
    "evaluate",
    "evaluation_data",
    "load_evaluator",
    "read_results",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.evaluation.comparison": ["compare"],
        "llamavae.evaluation.data": ["evaluation_data"],
        "llamavae.evaluation.evaluator": ["Evaluation", "EvaluationData", "Evaluator"],
        "llamavae.evaluation.refined": ["RefinedSystem"],
        "llamavae.evaluation.registry": ["EVALUATORS", "SUITES", "load_evaluator"],
        "llamavae.evaluation.results": ["Found", "Results", "read_results"],
        "llamavae.evaluation.suite": ["evaluate"],
    },
)
