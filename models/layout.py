"""Where things are in a run's folder and in an exported model.

| in `RUN/` | |
|---|---|
| `run.json` | spec, dataset, environment, outcome |
| `metrics.jsonl` | one line an epoch |
| `evaluation.json`, `report.html` | on the test split, beside yardsticks; for machines, and for people |
| `learning_curve.png` | losses by epoch |
| `logs/` | TensorBoard |
| `model.weights.h5` | the best epoch's weights |
| `state.npz` | of a family that is fitted without descent: the numbers that its model is built of |
| `statistics.json` | the dataset's: with them, the spec and the weights `models.stored` makes the model again |
| `texts.json`, `bigrams.npy` | of a model of texts, in place of the statistics: vocabulary, classes, bigrams |
| `checkpoint.npz` | while the run is not complete: what `train --resume` goes on from |
| `export/` | the SavedModel that `models.registry.push` publishes |
| `export/assets.extra/model.json` | what it is, what it was made of, and the sha256 of each of its files |
| `export/assets.extra/tf_serving_warmup_requests` | what a server sends through it before it takes traffic |
"""

from __future__ import annotations

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
CURVE_FILE = "learning_curve.png"
LOGS_FOLDER = "logs"
WEIGHTS_FILE = "model.weights.h5"
STATE_FILE = "state.npz"
STATISTICS_FILE = "statistics.json"
TEXT_STATE_FILE = "texts.json"
BIGRAMS_FILE = "bigrams.npy"
CHECKPOINT_FILE = "checkpoint.npz"
EXPORT_FOLDER = "export"

MODEL_FILE = "assets.extra/model.json"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
