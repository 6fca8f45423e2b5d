"""Whether this machine lets a test mount disks of its own, in a namespace."""

import subprocess

import pytest

_tried = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
needs_mounts = pytest.mark.skipif(_tried.returncode != 0, reason="no namespaces to mount a small disk in")
