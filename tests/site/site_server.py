"""A host of pages on this machine, which sends text as the hosts of this world do."""

from __future__ import annotations

import gzip
from functools import cache
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

PACKED = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".txt", ".xml"}


class Server(SimpleHTTPRequestHandler):
    """Text goes gzipped over the wire, as any host of pages sends it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.suffix not in PACKED or not file.is_file():
            super().do_GET()
            return
        body = as_sent(file)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def as_sent(file: Path) -> bytes:
    if file.suffix in PACKED:
        return _packed(file, file.stat().st_mtime_ns)
    return file.read_bytes()


@cache
def _packed(file: Path, changed: int) -> bytes:
    return gzip.compress(file.read_bytes(), 6)
