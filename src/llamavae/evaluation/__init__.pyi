from .comparison import compare as compare
from .data import evaluation_data as evaluation_data
from .evaluator import (
    Evaluation as Evaluation,
)
from .evaluator import (
    EvaluationData as EvaluationData,
)
from .evaluator import (
    Evaluator as Evaluator,
)
from .refined import RefinedSystem as RefinedSystem
from .registry import EVALUATORS as EVALUATORS
from .registry import SUITES as SUITES
from .registry import load_evaluator as load_evaluator
from .results import Found as Found
from .results import Results as Results
from .results import read_results as read_results
from .suite import evaluate as evaluate
