"""These tests run in a process of their own: see tests/cuda/test_interpreted.py."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
