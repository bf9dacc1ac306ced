"""An MCP server that answers what the protocol does not have: `python misbehaving.py FAULT`, over stdio, written without the SDK,
which would not let it."""

import json
import sys
from typing import Any

OBJECT = {"type": "object", "properties": {"anything": True}}
SCHEMAS: dict[str, Any] = {"schema of text": {"type": "string"}, "schema true": True, "schema missing": None}
RESULTS: dict[str, Any] = {
    "unknown content": {"content": [{"type": "hologram", "beam": "AAAA"}]},
    "content null": {"content": None},
    "content missing text": {"content": [{"type": "text"}]},
}


def answer(fault: str, method: str) -> Any:
    if method == "initialize":
        named = {"name": "misbehaving", "version": "1"}
        able = {"resources only": {"resources": {}}, "resources no list": {"tools": {}, "resources": {}}}
        return {"protocolVersion": "2025-06-18", "capabilities": able.get(fault, {"tools": {}}), "serverInfo": named}
    if method == "resources/list":
        return {"resources": "none" if fault == "resources no list" else [{"uri": "a://b", "name": "b"}]}
    if method == "tools/list":
        schema = SCHEMAS.get(fault, OBJECT)
        tools = [{"name": "fine", "inputSchema": OBJECT}, {"name": "ws.a/b", "inputSchema": schema}]
        return {"tools": "none" if fault == "tools no list" else tools}
    return RESULTS.get(fault, {"content": [{"type": "text", "text": "well"}]})


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        served = {"initialize", "tools/list", "tools/call", "resources/list"}
        if asked["method"] in served - ({"tools/list"} if sys.argv[1] == "resources only" else set()):
            reply = {"result": answer(sys.argv[1], asked["method"])}
        else:
            reply = {"error": {"code": -32601, "message": "Method not found"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **reply}), flush=True)


if __name__ == "__main__":
    main()
