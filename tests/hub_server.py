"""A stand-in for the Hugging Face hub: an HTTP server with the part of its interface that ``huggingface_hub`` uses.

``with hub_server(folder) as url`` keeps dataset repositories below a folder; :func:`client` runs Python with this hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def answer(self, value: object = None, *, status: int = 200, data: bytes = b"", **headers: str) -> None:
        body = data or (b"" if value is None else json.dumps(value).encode())
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def files(self, repo: str) -> list[Path]:
        folder = self.root / repo
        return [file for file in sorted(folder.rglob("*")) if file.is_file()]

    def missing(self, what: str) -> None:
        self.answer({"error": f"no {what}"}, status=404, X_Error_Code=what)

    def do_POST(self) -> None:
        parts, data = [unquote(part) for part in urlparse(self.path).path.split("/") if part], self.body()
        if parts == ["api", "repos", "create"]:
            asked = json.loads(data)
            owner = asked.get("organization") or "me"
            name = asked["name"] if "/" in asked["name"] else f"{owner}/{asked['name']}"
            (self.root / name).mkdir(parents=True, exist_ok=True)
            return self.answer({"url": f"https://huggingface.co/datasets/{name}", "id": name})
        if parts[1] == "validate-yaml":  # of a card
            return self.answer({"errors": [], "warnings": []})
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            asked = json.loads(data)["files"]
            return self.answer(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        if parts[4] == "commit":
            for line in map(json.loads, data.splitlines()):
                target = self.root / repo / line["value"].get("path", "")
                if line["key"] == "file":
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(line["value"]["content"]))
                elif line["key"] == "deletedFile":
                    target.unlink()
            url = f"http://{self.headers['Host']}/datasets/{repo}/commit/{COMMIT}"
            return self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        if parts[4] == "paths-info":
            return self.answer([])
        return self.missing("EntryNotFound")

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.split("/") if part]
        if parts[:2] == ["api", "datasets"]:
            repo = "/".join(parts[2:4])
            if not (self.root / repo).is_dir():
                return self.missing("RepoNotFound")
            names = [file.relative_to(self.root / repo).as_posix() for file in self.files(repo)]
            if "tree" in parts:
                return self.answer([
                    {"type": "file", "path": name, "oid": COMMIT, "size": (self.root / repo / name).stat().st_size}
                    for name in names
                ])  # fmt: skip
            return self.answer(
                {"id": repo, "sha": COMMIT, "private": False, "siblings": [{"rfilename": name} for name in names]}
            )
        repo, name = "/".join(parts[1:3]), "/".join(parts[5:])
        file = self.root / repo / name
        if parts[3:4] != ["resolve"] or not file.is_file():
            return self.missing("EntryNotFound" if (self.root / repo).is_dir() else "RepoNotFound")
        data = file.read_bytes()
        return self.answer(data=data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@contextmanager
def hub_server(root: Path) -> Iterator[str]:
    """Serve the repositories below a folder until the block ends; yield the server's URL."""
    handler = type("Handler", (_Handler,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def client(url: str, folder: Path, *arguments: str) -> str:
    """Run Python in a folder, with a home of its own and the hub at this URL; return what it printed."""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_secret"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
