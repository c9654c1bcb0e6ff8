"""A hub on loopback that serves small invented files the way huggingface_hub asks for them, and misbehaves on demand.

Answered: revision information with sizes and checksums; files with ETag, X-Repo-Commit and byte ranges, large ones
through a redirect as the hub does. `Session` runs commands in one child process that has HF_ENDPOINT set, because
huggingface_hub reads it when it is imported.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FIRST, SECOND = "a1" * 20, "b2" * 20
LARGE = (".pth", ".gz", ".safetensors", ".bin")
HARD_LIMIT = 120


def tar_gz(files):
    """A .tar.gz with files by name."""
    out = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=out) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


WEIGHTS = bytes(range(256)) * 1200
RADGRAPH_CONFIG = {
    "model": {
        "embedder": {
            "token_embedders": {"bert": {"model_name": "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext"}}
        }
    }
}
RADGRAPH = {
    "./config.json": json.dumps(RADGRAPH_CONFIG).encode(),
    "./weights.th": b"w" * 5000,
    "vocabulary/a.txt": b"\n",
}
BERT = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n[UNK]\n", "README.md": b"not wanted"}


def repositories():
    """repository -> commit -> file -> bytes."""
    scorers = {"chexbert.pth": WEIGHTS, "radgraph.tar.gz": tar_gz(RADGRAPH), "echograph.tar.gz": b"not wanted"}
    return {
        "StanfordAIMI/RRG_scorers": {FIRST: scorers, SECOND: {**scorers, "chexbert.pth": b"retrained" * 100}},
        "google-bert/bert-base-uncased": {FIRST: BERT},
        "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": {FIRST: BERT},
        "distilbert/distilroberta-base": {
            FIRST: {"config.json": b"{}", "pytorch_model.bin": b"old", "model.safetensors": b"new", "merges.txt": b"",
                    "tokenizer.json": b"{}"}
        },
    }  # fmt: skip


@dataclass
class Behaviour:
    """What goes wrong, by file name."""

    main: dict = field(default_factory=dict)
    """repository -> the commit that main is, FIRST where not named."""
    cut: dict = field(default_factory=dict)
    """Bytes after which each of the next connections breaks."""
    served: dict = field(default_factory=dict)
    """Other bytes than those listed."""
    stall: dict = field(default_factory=dict)
    """Bytes after which the connection hangs until the test ends."""
    ranges: bool = True
    sizes: bool = True
    status: int = 200
    gated: bool = False


class Hub:
    def __init__(self):
        self.repositories = repositories()
        self.requests = []
        self.behaviour = Behaviour()
        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reset(self):
        self.released.set()
        self.released = threading.Event()
        self.behaviour = Behaviour()
        self.requests.clear()
        self.repositories = repositories()

    def ranges_asked(self, name):
        """The Range headers of the downloads of a file, None where there was none."""
        return [asked for path, asked in self.requests if path.startswith("/cdn/") and path.endswith(name)]

    def stop(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        self.hub.requests.append((path, self.headers.get("Range")))
        do = self.hub.behaviour
        if do.gated:
            return self._said(403, {"X-Error-Code": "GatedRepo"})
        if do.status != 200:
            return self._said(do.status)
        if path.startswith("/api/models/"):
            return self._information(*path.removeprefix("/api/models/").split("/revision/"))
        if path.startswith("/cdn/"):
            repository, commit, name = self._split(path.removeprefix("/cdn/"), "/at/")
            return self._bytes(name, self.hub.repositories[repository][commit][name])
        return self._resolve(*self._split(path.removeprefix("/"), "/resolve/"))

    def _split(self, path, word):
        repository, rest = path.split(word)
        return (repository, *rest.split("/", 1))

    def _information(self, repository, revision):
        commits = self.hub.repositories.get(repository)
        if commits is None:
            return self._said(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.behaviour.main.get(repository, FIRST) if revision == "main" else revision
        if commit not in commits:
            return self._said(404, {"X-Error-Code": "RevisionNotFound"})
        files = [self._entry(name, data) for name, data in commits[commit].items()]
        body = {"_id": "1", "id": repository, "modelId": repository, "sha": commit, "private": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": files}  # fmt: skip
        return self._said(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _entry(self, name, data):
        if not self.hub.behaviour.sizes:
            return {"rfilename": name}
        entry = {"rfilename": name, "size": len(data), "blobId": _blob(data)}
        if name.endswith(LARGE):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _resolve(self, repository, commit, name):
        data = self.hub.repositories[repository][commit].get(name)
        if data is None:
            return self._said(404, {"X-Error-Code": "EntryNotFound"})
        head = {"X-Repo-Commit": commit, "ETag": f'"{_blob(data)}"'}
        if not name.endswith(LARGE):
            return self._bytes(name, data, head)
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        return self._said(302, {**head, **linked, "Location": f"/cdn/{repository}/at/{commit}/{name}"})

    def _bytes(self, name, data, head=None):
        do = self.hub.behaviour
        data = do.served.get(name, data)
        start = 0
        asked = self.headers.get("Range")
        if asked and do.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in {**(head or {}), "Content-Length": str(len(data) - start)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = do.cut.get(name)
        self.wfile.write(data[start : start + cuts.pop(0)] if cuts else data[start : do.stall.get(name, len(data))])
        if name in do.stall:
            self.wfile.flush()
            self.hub.released.wait(HARD_LIMIT)
        self.close_connection = cuts is not None or name in do.stall

    def _said(self, status, head=None, body=b""):
        self.send_response(status)
        for key, value in {**(head or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def _blob(data):
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


PROGRAM = """
import contextlib, io, json, os, sys
from cxrbench.cli.main import run

asked = sys.stdin
for line in asked:
    task = json.loads(line)
    os.environ.update(task["environment"])
    os.chdir(task["folder"])
    sys.argv, sys.stdin = ["cxrbench", *task["words"]], io.StringIO(task["answer"])
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def environment(url, **further):
    """What a child process sees: the hub, no token, no proxy on the way to it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return {**kept, "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", **further}


class Session:
    """A child process that runs one command after the other."""

    def __init__(self, url, home):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(url, HF_HOME=str(home)),
        )  # fmt: skip

    def __call__(self, folder, *words, answer=""):
        """(exit code, stdout, stderr) of a command typed in `folder`, with caches and settings below it."""
        places = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "100"}
        task = {"environment": places, "folder": str(folder), "words": [str(w) for w in words], "answer": answer}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        assert "Traceback" not in err
        return code, out, err

    def stop(self):
        self.process.stdin.close()
        self.process.wait(HARD_LIMIT)
        self.process.stdout.close()
