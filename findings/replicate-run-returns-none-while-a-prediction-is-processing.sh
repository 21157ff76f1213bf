#!/usr/bin/env bash
# replicate 1.0: `run` waits for a prediction with `Prefer: wait` and, when the answer comes, takes every status but
# `starting` for its end. A prediction that is answered as `processing`, which the API's documentation allows, is not
# waited for: `run` returns None, though the prediction succeeds a moment later.
#
# Seen with replicate 1.0.7, the same prediction answered with either status when the wait is over:
#   starting: picture
#   processing: None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "replicate==1.0.*" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from replicate.client import Client


class Predictions(BaseHTTPRequestHandler):
    """Answer the creation with the status under test, and every later look with success."""

    status = "starting"

    def answer(self, status, output):
        body = {"id": "p1", "model": "o/m", "version": "v", "status": status, "input": {}, "output": output, "logs": ""}
        body |= {"error": None, "metrics": {}, "urls": {"get": f"http://{self.headers['Host']}/v1/predictions/p1"}}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.status, None)

    def do_GET(self):
        self.answer("succeeded", "picture")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Predictions)
threading.Thread(target=server.serve_forever, daemon=True).start()
found = {}
for status in ("starting", "processing"):
    Predictions.status = status
    client = Client(api_token="x", base_url=f"http://127.0.0.1:{server.server_port}")
    found[status] = client.run("o/m", input={"prompt": "a star"}, use_file_output=False)
    print(f"{status}: {found[status]}")
sys.exit(found != {"starting": "picture", "processing": None})
PY
