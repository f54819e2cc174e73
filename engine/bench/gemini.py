"""Gemini's generateContent: how it is asked, how it answers and how it refuses."""

import json
import re
from collections.abc import Mapping
from typing import Any

from engine.bench.dialects import Asked, Finish, Said, as_json, count_tokens
from engine.bench.script import Script
from engine.bench.wire import Request, Response

PATH = re.compile(r"/v1(?:beta)?/models/(.+):generateContent")
_GOOGLE = "type.googleapis.com/google.rpc."
_LONG_WAIT_S = 6 * 3600

# Status, Google's name of it, message.
_GEMINI_ERRORS = {
    "rate_limit": (429, "RESOURCE_EXHAUSTED", "Too many requests right now."),
    "rate_limit_delay": (429, "RESOURCE_EXHAUSTED", "Too many requests; wait a little."),
    "minutes_limit": (429, "RESOURCE_EXHAUSTED", "The quota of this minute is used up."),
    "daily_quota": (429, "RESOURCE_EXHAUSTED", "The quota of this day is used up."),
    "error_500": (500, "INTERNAL", "Something broke inside."),
    "unavailable": (503, "UNAVAILABLE", "The model is overloaded."),
    "bad_request": (400, "INVALID_ARGUMENT", "The request holds an argument that is not valid."),
    "unauthorised": (400, "INVALID_ARGUMENT", "API key not valid."),
    "forbidden": (403, "PERMISSION_DENIED", "This project may not use this service."),
    "no_such_model": (404, "NOT_FOUND", "This model does not exist."),
}
_QUOTAS = {
    "minutes_limit": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
    "daily_quota": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
}
_GOOGLE_REASONS = {"unauthorised": "API_KEY_INVALID", "forbidden": "SERVICE_DISABLED"}


class Gemini:
    """generateContent of the Gemini API."""

    FINISHES: Mapping[Finish, str] = {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "safety": "SAFETY",
        "recitation": "RECITATION",
        "unknown": "SOMETHING_NEW",
        "disabled": "PUP_LIMITED_DISABLED",
    }

    def read(self, request: Request) -> Asked:
        found = PATH.fullmatch(request.path)
        body = json.loads(request.body)
        texts = [part["text"] for content in body["contents"] for part in content["parts"]]
        config = body.get("generationConfig") or {}
        model = found[1] if found else ""
        return Asked("\n".join(texts), config.get("seed"), config.get("maxOutputTokens"), model)

    def answer(self, asked: Asked, said: Said | None, number: str, thinking: int) -> Response:
        body: dict[str, Any] = {}
        if said is not None:
            body["candidates"] = [self._candidate(said)]
        return as_json(body | self._end(asked, said, number, thinking))

    def refuse(self, name: str, asked: Asked, number: str, script: Script) -> Response:
        if name == "disabled":
            return self.answer(asked, Said(None, "disabled"), number, 0)
        if name == "blocked_prompt":
            blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
            return as_json(blocked | self._end(asked, None, number, 0))
        code, status, message = _GEMINI_ERRORS[name]
        error: dict[str, Any] = {"code": code, "message": message, "status": status}
        if details := self._details(name, asked, script):
            error["details"] = details
        return as_json({"error": error}, code)

    def _candidate(self, said: Said) -> dict[str, Any]:
        candidate: dict[str, Any] = {"finishReason": self.FINISHES[said.finish], "index": 0}
        if said.text is not None:
            parts = {"parts": [{"text": said.text}]} if said.text else {}
            candidate["content"] = {**parts, "role": "model"}
        if said.finish == "safety":
            rating = {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH"}
            candidate["safetyRatings"] = [{**rating, "blocked": True}]
        return candidate

    def _end(self, asked: Asked, said: Said | None, number: str, thinking: int) -> dict[str, Any]:
        prompt, output = count_tokens(asked.prompt), count_tokens(said.text if said else None)
        usage = {"promptTokenCount": prompt, "totalTokenCount": prompt + output + thinking}
        if output:
            usage["candidatesTokenCount"] = output
        if thinking:
            usage["thoughtsTokenCount"] = thinking
        return {"usageMetadata": usage, "modelVersion": asked.model, "responseId": number}

    def _details(self, name: str, asked: Asked, script: Script) -> list[dict[str, Any]]:
        details: list[dict[str, Any]] = []
        if reason := _GOOGLE_REASONS.get(name):
            place = {"domain": "googleapis.com"}
            details.append({"@type": f"{_GOOGLE}ErrorInfo", "reason": reason, **place})
        if quota := _QUOTAS.get(name):
            violation = {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
                "quotaId": quota,
                "quotaDimensions": {"location": "global", "model": asked.model},
                "quotaValue": "250",
            }
            details.append({"@type": f"{_GOOGLE}QuotaFailure", "violations": [violation]})
        waits = {"rate_limit_delay": script.delay_s, "daily_quota": _LONG_WAIT_S}
        if delay := waits.get(name):
            details.append({"@type": f"{_GOOGLE}RetryInfo", "retryDelay": f"{delay:.9g}s"})
        return details
