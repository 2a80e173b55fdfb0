"""Tests of recbole_rawp."""

from __future__ import annotations

import os

# Before torch and numpy are imported: the threads of two workers, and of the processes they start, would wait for each
# other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
