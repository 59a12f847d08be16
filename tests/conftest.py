"""One thread a process: the suite runs in parallel, and results do not depend on the machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
