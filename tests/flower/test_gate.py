"""The one open port passes on what devices need, and nothing with which a run could be started."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

import httpx

from fibecfed.flower.gate import Gate

REFUSED = [
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/runtime/pull-messages",
    "/",
    "/health",
    "/v1/fleet",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet//control",
    "//v1/control",
]


def ask(
    path: str, body: bytes = b"", fails: bool = False, **headers: str
) -> tuple[httpx.Response, list[httpx.Request]]:
    """The gate's answer over ASGI, and what Flower's server behind it saw."""
    seen: list[httpx.Request] = []

    def flower(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if fails:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=b"answer:" + request.content, headers={"x-flower": "1"})

    async def call() -> httpx.Response:
        gate: Any = Gate("http://inside", None)
        gate._client = httpx.AsyncClient(transport=httpx.MockTransport(flower), base_url="http://inside")
        url = httpx.URL("http://outside").copy_with(raw_path=path.encode())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate)) as client:
            return await client.post(url, content=body, headers=headers)

    return asyncio.run(call()), seen


def test_the_fleet_api_passes_with_body_headers_and_query() -> None:
    answer, seen = ask("/v1/fleet/pull-messages?x=1", b"\x00body", **{"flwr-signature": "abc"})
    assert (answer.status_code, answer.content, answer.headers["x-flower"]) == (200, b"answer:\x00body", "1")
    assert str(seen[0].url) == "http://inside/v1/fleet/pull-messages?x=1"
    assert seen[0].headers["flwr-signature"] == "abc"
    assert seen[0].headers["host"] == "inside"


@pytest.mark.parametrize("path", REFUSED)
def test_nothing_else_passes(path: str) -> None:
    answer, seen = ask(path)
    assert answer.status_code == 404
    assert not seen


def test_a_server_that_is_not_there_is_a_503_that_devices_wait_out() -> None:
    assert ask("/v1/fleet/pull-messages", fails=True)[0].status_code == 503
