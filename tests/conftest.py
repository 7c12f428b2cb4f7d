"""Lets every test import what lies beside this file, and keeps each test process to one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Tests run several processes side by side; threads of several processes on few cores wait for each other, and small
# tensors gain nothing from them. The variable is for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))
