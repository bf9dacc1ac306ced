"""An MCP server that answers what the protocol does not have, or seldom sees: `python misbehaving.py FAULT`, over stdio, or over HTTP with
a port, written without the SDK, which would not let it."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OBJECT = {"type": "object", "properties": {"anything": True}}
SCHEMAS: dict[str, Any] = {"schema of text": {"type": "string"}, "schema true": True, "schema missing": None}
RESULTS: dict[str, Any] = {
    "unknown content": {"content": [{"type": "hologram", "beam": "AAAA"}]},
    "content null": {"content": None},
    "content missing text": {"content": [{"type": "text"}]},
    "half an emoji": {"content": [{"type": "text", "text": "a\ud83d"}]},
    "error without words": {"content": [], "isError": True},
}
ERRORS: dict[str, Any] = {
    "locked": {"code": -32000, "message": "The database is locked"},
    "picky": {"code": -32602, "message": "Invalid params", "data": {"missing": ["day"]}},
    "error of text": "It is locked",
}
LINES = {"latin-1": b"caf\xe9\n", "not json": b"I am at work\n"}
"""Written before the answer of a call; for "not json", in place of it."""


def answer(fault: str, method: str, tool: str = "") -> Any:
    if method == "initialize":
        named = {"name": "misbehaving", "version": "1"}
        able = {"resources only": {"resources": {}}, "resources no list": {"tools": {}, "resources": {}}}
        return {"protocolVersion": "2025-06-18", "capabilities": able.get(fault, {"tools": {}}), "serverInfo": named}
    if method == "resources/list":
        return {"resources": "none" if fault == "resources no list" else [{"uri": "a://b", "name": "b"}]}
    if method == "tools/list":
        schema = SCHEMAS.get(fault, OBJECT)
        tools = [{"name": "fine", "inputSchema": OBJECT}, {"name": "ws.a/b", "inputSchema": schema}]
        if fault == "names twice":
            tools += tools
        page = {"nextCursor": str(time.perf_counter_ns())} if fault == "pages without end" else {}
        return {"tools": "none" if fault == "tools no list" else tools, **page}
    if fault == "locked" and tool != "fine":
        time.sleep(1)
    return RESULTS.get(fault, {"content": [{"type": "text", "text": "well"}]})


def reply(fault: str, asked: dict[str, Any]) -> dict[str, Any]:
    method, tool = asked["method"], str(asked.get("params", {}).get("name", ""))
    served = {"initialize", "tools/list", "tools/call", "resources/list"}
    done: dict[str, Any]
    if method not in served - ({"tools/list"} if fault == "resources only" else set()):
        done = {"error": {"code": -32601, "message": "Method not found"}}
    elif tool == "fine" and fault in ERRORS:
        done = {"error": ERRORS[fault]}
    else:
        done = {"result": answer(fault, method, tool)}
    return {"jsonrpc": "2.0", "id": asked["id"], **done}


def main(fault: str) -> None:
    if fault == "usage":
        print("usage: misbehaving --key KEY")
        sys.exit(2)

    def tell(asked: dict[str, Any]) -> None:
        told = json.dumps(reply(fault, asked)).encode() + b"\n"
        if asked["method"] == "tools/call" and fault in LINES:
            told = LINES[fault] + (told if fault != "not json" else b"")
        sys.stdout.buffer.write(told)
        sys.stdout.buffer.flush()

    for line in sys.stdin:
        asked = json.loads(line)
        if fault == "gets stuck" and asked["method"] == "tools/call" and asked["params"]["name"] == "fine":
            time.sleep(3600)
        if "id" in asked:
            threading.Thread(target=tell, args=(asked,), daemon=True).start()


class Http(BaseHTTPRequestHandler):
    """One response per request, except for a call of "asks", which is a stream with a question in it."""

    answered = threading.Event()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "method" not in asked:
            self.answered.set()
        if "id" not in asked or "method" not in asked:
            return self.tell(202)
        if FAULT == "older transport":
            return self.tell(405)
        is_call = asked["method"] == "tools/call"
        if is_call and FAULT == "expired token":
            return self.tell(401)
        if is_call and FAULT == "stream that breaks off":
            return self.tell(200, b": nothing\n\n", "text/event-stream")
        if is_call and FAULT == "asks":
            form = {"type": "object", "properties": {"name": {"type": "string"}}}
            question = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create"}
            self.tell(
                200, event({**question, "params": {"message": "Who?", "requestedSchema": form}}), "text/event-stream"
            )
            self.answered.wait(20)
            return self.wfile.write(event(reply(FAULT, asked))) and None
        self.tell(200, json.dumps(reply(FAULT, asked)).encode())

    def do_GET(self) -> None:
        self.tell(405)

    def tell(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def event(message: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()


if __name__ == "__main__":
    FAULT = sys.argv[1]
    if len(sys.argv) == 2:
        main(FAULT)
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Http)
    print(f"http://127.0.0.1:{server.server_port}/mcp", file=sys.stderr, flush=True)
    server.serve_forever()
