"""Runs pytest in an environment that has no test tools: `<its python> tests [arguments]`.

The tools lie in `.nox/test`, which nox makes from lockfiles/test.txt. They come after the packages
of the environment, so that none of those is replaced (PYTHONPATH would put them before), and in
this process alone, so that what a test starts has what the environment has.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / ".nox" / "test"))

import pytest

sys.exit(pytest.main())
