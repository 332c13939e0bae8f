"""What can be read from embeddings: linear probes for head, behaviour and outcome. Splits are by source file.

Used by ``experiments/study.py``. Axes: n patterns, d embedding, m prompts, h heads.
"""

import warnings

import numpy as np
from numpy import ndarray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_COMPONENTS = 8
"""Numbers per head that the outcome is read from: 48 heads of 160 numbers would be more columns than prompts."""


def accuracy(z: ndarray, labels: ndarray, files: ndarray) -> float:
    """Accuracy of multinomial logistic regression on standardised embeddings, on files it was not fitted on.

    Args:
        z: (n, d) embeddings.
        labels: (n,) what to predict.
        files: (n,) the file of each; it is fitted on half of the files and measured on the others, both ways.
    """
    right = np.zeros(len(z), dtype=bool)
    for fitted, measured in GroupKFold(2).split(z, groups=files):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 200 iterations are enough for a comparison, converged or not
            right[measured] = model.fit(z[fitted], labels[fitted]).predict(z[measured]) == labels[measured]
    return float(right.mean())


def head_accuracy(z: ndarray, layer: ndarray, head: ndarray, files: ndarray) -> float:
    """Accuracy of telling a layer's heads from one another (:func:`accuracy`), mean over layers."""
    return float(np.mean([accuracy(z[layer == own], head[layer == own], files[layer == own]) for own in set(layer)]))


def outcome_auroc(z: ndarray, correct: ndarray, files: ndarray) -> float:
    """AUROC of the outcome, read from all heads of a prompt at once; mean over five parts of the files.

    Principal components over all patterns of the other four parts, side by side for all heads, standardised; then L2
    logistic regression with a strength chosen within those four parts.

    Args:
        z: (m, h, d) embeddings.
        correct: (m,) booleans.
        files: (m,) the file of each prompt.
    """
    found = []
    for fitted, measured in GroupKFold(5).split(z, groups=files):
        scaler = StandardScaler().fit(z[fitted].reshape(-1, z.shape[-1]))
        reducer = PCA(_COMPONENTS, random_state=0).fit(scaler.transform(z[fitted].reshape(-1, z.shape[-1])))
        columns = reducer.transform(scaler.transform(z.reshape(-1, z.shape[-1]))).reshape(len(z), -1)
        inner = list(GroupKFold(4).split(columns[fitted], groups=files[fitted]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns about new defaults of settings that are given here
            model = make_pipeline(
                StandardScaler(),
                LogisticRegressionCV(Cs=9, cv=inner, scoring="roc_auc", max_iter=500),  # 1e-4 to 1e4
            ).fit(columns[fitted], correct[fitted])
        found.append(roc_auc_score(correct[measured], model.decision_function(columns[measured])))
    return float(np.mean(found))


def outcome_of_answer(sure: ndarray, correct: ndarray, files: ndarray) -> float:
    """AUROC of the outcome from one number per prompt, such as the model's probability, over the same five parts."""
    parts = [measured for _, measured in GroupKFold(5).split(sure, groups=files)]
    return float(np.mean([roc_auc_score(correct[part], sure[part]) for part in parts]))
