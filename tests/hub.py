"""A hub of one data set on this machine, as far as `datasets` asks: commits, lists of files, files."""

import hashlib
import http.server
import json
import threading
from urllib.parse import unquote

REPOSITORY = "owner/pope"


class Hub(http.server.ThreadingHTTPServer):
    """`commits`: commit -> file name -> content. Branch main is the first, and the last once /move was asked."""

    def __init__(self, commits: dict[str, dict[str, bytes]]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits, self.main = commits, next(iter(commits))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path == "move":
            self.server.main = [*self.server.commits][-1]
            return self.send(200, b"")
        kind, _, rest = path.partition(f"datasets/{REPOSITORY}/")
        action, _, rest = rest.partition("/")
        revision, _, name = rest.partition("/")
        commit = self.server.main if revision == "main" else revision
        files = self.server.commits.get(commit, {})
        if (kind, action) == ("", "resolve") and name in files:
            told = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'}
            return self.send(200, files[name], told)
        if (kind, action) == ("api/", "revision") and files:
            return self.send_json({"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": one} for one in files]})
        if (kind, action) == ("api/", "tree") and files:
            entries = [{"type": "file", "path": one, "size": len(files[one])} for one in files]
            entries += [{"type": "directory", "path": one} for one in {one.rpartition("/")[0] for one in files} - {""}]
            within = f"{name}/" if name else ""
            return self.send_json([entry | {"oid": "0"} for entry in entries if entry["path"].startswith(within)])
        return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound" if files else "RevisionNotFound"})

    do_HEAD = do_GET

    def send_json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""
