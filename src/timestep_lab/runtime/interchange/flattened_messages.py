"""Messages and documents flattened into dotted names, of OpenInference and OpenLLMetry."""

from __future__ import annotations

from collections.abc import Mapping

from timestep_lab.model.codec import object_of
from timestep_lab.runtime.interchange.messages import Message, call_of, read_json

Tree = dict[str, object]


def gathered(attributes: dict[str, object], prefix: str, role: str = "assistant") -> list[Message]:
    """Returns the messages under `prefix` (which ends in a dot), in order, and removes their attributes from the dict. `role`: of
    messages that state none.

    OpenInference: `llm.input_messages.0.message.role`, `….message.contents.0.message_content.text`,
    `….message.tool_calls.0.tool_call.function.name`. OpenLLMetry: `gen_ai.prompt.0.role`, `gen_ai.completion.0.tool_calls.0.name`.
    """
    messages = [_gathered_message(entry, role) for entry in _in_order(_tree(attributes, prefix))]
    return messages if any(message.keys() - {"role"} for message in messages) else []


def gathered_documents(attributes: dict[str, object], prefix: str) -> list[Message]:
    """Returns the documents under `prefix`, as `{id, content, score, metadata}`, and removes their attributes."""
    documents = []
    for entry in _in_order(_tree(attributes, prefix)):
        document = entry.get("document", entry)
        if not isinstance(document, Mapping):
            document = {"content": document}
        documents.append({key: read_json(value) if key == "metadata" else value for key, value in document.items()})
    return documents


def _tree(attributes: dict[str, object], prefix: str) -> Tree:
    tree: Tree = {}
    for name in [name for name in attributes if name.startswith(prefix)]:
        at = tree
        *path, last = name[len(prefix) :].split(".")
        for step in path:
            below = at.setdefault(step, {})
            if not isinstance(below, dict):
                break
            at = below
        else:
            at[last] = attributes.pop(name)
    return tree


_ROLES = ("system", "user", "assistant", "tool")


def _gathered_message(entry: Mapping[str, object], role: str) -> Message:
    fields = next((entry[name] for name in ("message", "prompt", "completion") if name in entry), entry)
    if not isinstance(fields, Mapping):
        return {"role": role, "content": fields}
    if len(fields) == 1 and (name := next(iter(fields))) in _ROLES:  # IBM watsonx.ai: the role is the name.
        return {"role": name, "content": fields[name]}
    message: Message = {"role": fields.get("role", role)}
    content = fields.get("content", fields.get("text"))
    if isinstance(content, Mapping):  # A list of texts.
        content = "\n".join(str(content[place]) for place in sorted(content, key=lambda place: (len(place), place)))
    calls = [_gathered_call(call) for call in _in_order(object_of(fields.get("tool_calls")))]
    if isinstance(fields.get("contents"), Mapping):
        blocks: list[object] = []
        for part in _in_order(fields["contents"]):
            if isinstance(part.get("tool_call"), Mapping):
                # A repetition of the call at its position among the contents.
                call = _gathered_call(part)
                if all(known.get("id") != call.get("id") for known in calls):
                    calls.append(call)
            else:
                content_part = part.get("message_content", part)
                blocks.append(dict(content_part) if isinstance(content_part, Mapping) else content_part)
        content = blocks or content
    if isinstance(content, str) and content.startswith('[{"') and '"type":' in content:
        parts = read_json(content)  # As written by OpenLLMetry.
        if isinstance(parts, list) and all(isinstance(part, Mapping) and "type" in part for part in parts):
            content = parts if not calls else [part for part in parts if part["type"] != "tool_use"]
    if content is not None and not (calls and content == '""'):  # OpenLLMetry of 2025: no text beside the calls.
        message["content"] = content
    function = fields.get("function_call")
    if not calls and (isinstance(function, Mapping) or "function_call_name" in fields):
        named = function if isinstance(function, Mapping) else {
            "name": fields.get("function_call_name"), "arguments": fields.get("function_call_arguments_json"),
        }  # fmt: skip
        calls.append(call_of(None, named.get("name"), named.get("arguments")))
    if calls:
        message["tool_calls"] = calls
    message.update((key, fields[key]) for key in ("tool_call_id", "name", "finish_reason", "refusal") if key in fields)
    if message["role"] == "thinking":  # OpenLLMetry before 0.60 states Claude's reasoning as a message of its own.
        message.update(role="assistant", content=[{"type": "reasoning", "content": message.get("content")}])
    return message


def _gathered_call(entry: Mapping[str, object]) -> Message:
    call = entry.get("tool_call", entry)
    if not isinstance(call, Mapping):
        return {"type": "function", "function": {"name": str(call)}}
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    name_and_arguments = {key: function[key] for key in ("name", "arguments") if key in function}
    return {**({"id": call["id"]} if "id" in call else {}), "type": "function", "function": name_and_arguments}


def _in_order(numbered: Mapping[str, object]) -> list[Mapping[str, object]]:
    places = sorted((int(place), place) for place in numbered if place.isdecimal())
    return [entry for _, place in places if isinstance(entry := numbered[place], Mapping)]
