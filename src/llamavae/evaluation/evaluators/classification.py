"""Classification: labels predicted from latent codes as SentEval does for its transfer tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, latent_codes
from llamavae.evaluation.labels import classes, left_out_table, listed
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.metrics.probes import CrossValidation, cross_validate


class Classification(Evaluator):
    """Accuracy of logistic regressions in nested cross-validation, for each label column.

    The protocol is that of SentEval for tasks without a split, such as MR, CR, SUBJ and MPQA. Pass
    the file of a task as the corpus, with all its sentences: `--corpus mr.csv --split all`. Probes
    (`probes`) are cheaper, since they use one split, and standardise the codes.

    Args:
        folds: Number of folds of the outer and of the inner cross-validation.
        limit: Maximum number of sentences, chosen at random. There are folds · (6 · folds + 1) fits
            for each label.
        resamples: Number of bootstrap samples.
    """

    name = "classification"
    needs = frozenset({"encode", "labels"})
    metrics = (
        Metric(
            "classification accuracy",
            "0 to 1",
            "higher",
            "Accuracy of a logistic regression from posterior means to a label, averaged over the "
            "test folds of a stratified cross-validation; the L2 penalty is chosen for each fold "
            "by an inner cross-validation (SentEval; Conneau and Kiela, 2018, arXiv 1803.05449). "
            "Without a group, it is the mean over label columns.",
            "The accuracy of predicting the most frequent label.",
            library="scikit-learn",
        ),
    )

    def __init__(self, folds: int = 10, limit: int | None = 2000, resamples: int = 1000) -> None:
        if folds < 2:
            raise UserError(f"expected at least 2 folds; got {folds}")
        self.folds, self.limit, self.resamples = folds, limit, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The accuracy for each label and their mean, and tables of the folds and excluded labels.

        Raises:
            UserError: No label has 2 to 50 classes, each with enough sentences for the folds.
        """
        data = data.sample(self.limit)
        columns, left_out = classes(data.labels)
        z = latent_codes(system, data.texts).numpy()
        found: dict[str, CrossValidation] = {}
        for name, labels in columns.items():
            try:
                found[name] = cross_validate(z, labels, self.folds, data.seed)
            except UserError as error:
                left_out[name] = str(error)
        if not found:
            raise UserError(f"expected at least one usable label; found none. {listed(left_out)}")
        groups = {"": list(found.values()), **{name: [each] for name, each in found.items()}}
        rows: Rows = []
        for group, members in groups.items():
            values = np.mean([each.weighted() for each in members], axis=0)
            row = self.primary.bootstrap(
                lambda i, values=values: values[i].mean(),
                len(values),
                data.seed,
                resamples=self.resamples,
                control=float(np.mean([each.majority for each in members])),
                group=group,
                items=Items(values),
            )
            rows.append(row)
        table: Rows = [
            {
                "label": name,
                "fold": fold + 1,
                "C": float(each.strengths[fold]),
                "accuracy": float(each.correct[each.folds == fold].mean()),
            }
            for name, each in found.items()
            for fold in range(self.folds)
        ]
        return Evaluation(rows, {"folds": table} | left_out_table(left_out))
