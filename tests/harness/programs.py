"""Programs of the machine that a few tests need; CI installs them, so that it skips nothing."""

import shutil

import pytest

NEEDS_CURL = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="runs curl and bash as a user would"
)
