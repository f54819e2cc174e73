"""OpenAI's chat completions, which many imitate: how they are asked, answered and refused."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from engine.bench.dialects import Asked, Finish, Said, as_json, count_tokens
from engine.bench.script import Script
from engine.bench.wire import Request, Response

PATH = "/v1/chat/completions"

# Status, type, code, message.
_OPENAI_ERRORS = {
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "rate_limit_delay": (429, "requests", "rate_limit_exceeded", "Rate limit reached; wait."),
    "minutes_limit": (429, "requests", "rate_limit_exceeded", "Rate limit of RPM reached."),
    "daily_quota": (429, "insufficient_quota", "insufficient_quota", "The quota is used up."),
    "error_500": (500, "server_error", None, "Something broke inside."),
    "unavailable": (503, "server_error", None, "The server is overloaded."),
    "bad_request": (400, "invalid_request_error", None, "The request holds an invalid value."),
    "blocked_prompt": (400, "invalid_request_error", "content_filter", "The prompt is filtered."),
    "unauthorised": (401, "invalid_request_error", "invalid_api_key", "The key is not valid."),
    "forbidden": (403, "invalid_request_error", "forbidden", "This project may not do this."),
    "disabled": (401, "invalid_request_error", "account_deactivated", "Account disabled."),
    "no_such_model": (404, "invalid_request_error", "model_not_found", "No such model."),
}


def models(*names: str) -> dict[str, Any]:
    """What GET /v1/models answers."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "loopback"} for name in names]
    return {"object": "list", "data": rows}


class OpenAI:
    """Chat completions of OpenAI, and of all who imitate them."""

    FINISHES: Mapping[Finish, str] = {
        "stop": "stop",
        "length": "length",
        "safety": "content_filter",
        "recitation": "content_filter",
        "unknown": "something_new",
    }

    def read(self, request: Request) -> Asked:
        body = json.loads(request.body)
        prompt = "\n".join(self._content(message) for message in body["messages"])
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return Asked(prompt, body.get("seed"), limit, body["model"])

    def answer(self, asked: Asked, said: Said | None, number: str, thinking: int) -> Response:
        prompt, output = count_tokens(asked.prompt), count_tokens(said.text if said else None)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": output + thinking,
            "total_tokens": prompt + output + thinking,
        }
        if thinking:
            usage["completion_tokens_details"] = {"reasoning_tokens": thinking}
        return as_json(
            {
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked.model,
                "choices": [] if said is None else [self._choice(said)],
                "usage": usage,
            },
            headers={"x-request-id": f"req_{number}"},
        )

    def refuse(self, name: str, asked: Asked, number: str, script: Script) -> Response:
        status, kind, code, message = _OPENAI_ERRORS[name]
        headers = {"x-request-id": f"req_{number}"}
        if name == "rate_limit_delay":
            headers["Retry-After"] = str(math.ceil(script.delay_s))
            headers["retry-after-ms"] = f"{script.delay_s * 1000:.9g}"
        error = {"message": message, "type": kind, "param": None, "code": code}
        return as_json({"error": error}, status, headers)

    def _content(self, message: Mapping[str, Any]) -> str:
        content = message["content"]
        if isinstance(content, str):
            return content
        return "\n".join(part["text"] for part in content)

    def _choice(self, said: Said) -> dict[str, Any]:
        message = {"role": "assistant", "content": said.text, "refusal": None}
        finish = self.FINISHES[said.finish]
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
