"""ImageNet weights from timm's hub: a server on 127.0.0.1 replaces the hub for a new process."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from conftest import ARCH
from safetensors.torch import save


@pytest.mark.slow
def test_auto_fetches_imagenet_weights(tmp_path):
    torch.manual_seed(5)
    model = timm.create_model(ARCH)
    content = save({k: v.contiguous() for k, v in model.state_dict().items()})
    digest, asked = hashlib.sha256(content).hexdigest(), []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            found = self.path.endswith("/model.safetensors")
            self.send_response(200 if found or self.path == "/" else 404)
            self.send_header("Content-Length", str(len(content)) if found else "0")
            if found:
                self.send_header("ETag", f'"{digest}"')
                self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from fastseg.models.factory import segmenter\n"
        f"network, origin = segmenter({ARCH!r}, 3, weights='imagenet')\n"
        "print(origin, float(network.body.state_dict()['model.conv1.0.weight'].sum()))"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    *origin, total = done.stdout.split()
    assert "backbone tensors)" in " ".join(origin) and "random" not in origin
    assert abs(float(total) - float(model.state_dict()["conv1.0.weight"].sum())) < 1e-4
    assert any("model.safetensors" in path for path in asked)
