"""Whether this machine may have a GPU, known without torch, whose import takes seconds."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

# What the drivers of NVIDIA (Linux, WSL, Jetson) and AMD make.
DEVICES = "/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvmap", "/dev/kfd"


def may_have_gpu() -> bool:
    """Return False where torch cannot find a GPU; True says that it must be asked."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return sys.platform == "darwin"
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform != "linux":
        return True
    return any(Path(device).exists() for device in DEVICES)
