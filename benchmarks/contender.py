"""Runs the models of one module, as `compare.py` asks for them: `python contender.py models_simpy`.

Each contender is a process of its own, so that each may have its own interpreter and packages.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys

models = importlib.import_module(sys.argv[1])
print(json.dumps([models.VERSION, list(models.MODELS)]), flush=True)
for line in sys.stdin:
    gc.collect()
    print(json.dumps(models.MODELS[line.strip()]()), flush=True)
