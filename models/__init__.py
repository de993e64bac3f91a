"""Model families, training, export and the registry of versions."""

import os

# TensorFlow reads this when it is first imported, wherever in this package that happens; its notes on the machine's
# instruction sets are nothing that a user of the command line asked for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
