"""When to ask an HTTP endpoint again. Pure decisions, and the one loop that carries them out."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from rag_pipeline.errors import ExpectedError

if TYPE_CHECKING:
    import httpx2

# 408 and 425: the server wants the request again; 502-504: something in between is not up.
_BUSY = frozenset({408, 425, 429, 502, 503, 504})
# What OpenAI answers, as a 429, when the account is empty: no waiting helps.
_HOPELESS = "insufficient_quota"


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds. `total` bounds the time from the first failure on; `server_errors` bounds answers of 500."""

    total: float = 600.0
    first: float = 1.0
    longest: float = 60.0
    server_errors: int = 3
    retry_refused_connection: bool = True


@dataclass(frozen=True)
class RetryDecision:
    """Wait so many seconds and ask again; None: give up."""

    wait: float | None
    reason: str


class EndpointBusy(ExpectedError):
    """The endpoint stayed unreachable or overloaded for as long as the policy allows."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def decide_retry(
    *, attempt: int, elapsed: float, retry_after: float | None, jitter: float, policy: RetryPolicy
) -> RetryDecision:
    """Wait what the server asks for, else 2**attempt times `first`, spread so that clients keep apart.

    `attempt` counts failures so far from 0, `jitter` is in [0, 1): a server's wait is stretched by up to a
    tenth and never shortened, our own lies between half and the whole ("equal jitter", AWS Architecture Blog,
    "Exponential Backoff And Jitter").
    """
    if retry_after is not None:
        wait, source = retry_after * (1 + jitter / 10), "the server asked for it"
    else:
        wait = min(policy.longest, policy.first * 2 ** min(attempt, 30)) * (0.5 + jitter / 2)
        source = "backing off"
    if elapsed + wait > policy.total:
        return RetryDecision(None, f"another {wait:.1f} s would pass the limit of {policy.total:.0f} s")
    return RetryDecision(wait, source)


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds from Retry-After (a number or a date, RFC 9110 10.2.3) or retry-after-ms; or None."""
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in lowered:
            return max(0.0, float(lowered["retry-after-ms"]) / 1000)
        value = lowered.get("retry-after")
        if value is None:
            return None
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(lowered["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


def send_patiently(
    client: "httpx2.Client", request: "httpx2.Request", policy: RetryPolicy, *, stream: bool = False
) -> "httpx2.Response":
    """Send until an answer comes that waiting cannot improve, and return it, whatever its status.

    Busy statuses, timeouts and broken connections are waited out; a 500 only `policy.server_errors` times,
    as it may be this very request that breaks the server. Raises EndpointBusy when the time is up.
    """
    import httpx2

    began: float | None = None
    attempt = server_errors = 0
    while True:
        status: int | None = None
        retry_after: float | None = None
        try:
            response = client.send(request, stream=stream)
        except httpx2.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, httpx2.ConnectError) and not policy.retry_refused_connection:
                raise EndpointBusy(f"{request.url} cannot be reached: {error}") from error
            if isinstance(error, httpx2.UnsupportedProtocol):
                raise EndpointBusy(f"{request.url} is no http address: {error}") from error
        else:
            status, reason = response.status_code, f"HTTP {response.status_code}"
            server_errors += status == 500
            if not _worth_retrying(response, server_errors, policy):
                return response
            retry_after = parse_retry_after(response.headers, datetime.now(UTC))
            response.close()
        began = time.monotonic() if began is None else began
        decision = decide_retry(
            attempt=attempt,
            elapsed=time.monotonic() - began,
            retry_after=retry_after,
            jitter=random.random(),
            policy=policy,
        )
        if decision.wait is None:
            raise EndpointBusy(f"{request.url} gave no answer ({reason}); {decision.reason}", status)
        time.sleep(decision.wait)
        attempt += 1


def _worth_retrying(response: "httpx2.Response", server_errors: int, policy: RetryPolicy) -> bool:
    if response.status_code == 500:
        return server_errors < policy.server_errors
    if response.status_code not in _BUSY:
        return False
    return response.status_code != 429 or _HOPELESS not in response.read().decode(errors="replace")


def read_error_message(response: "httpx2.Response") -> str:
    """The message of an OpenAI-style error body, or the body's first 300 characters."""
    body = response.read().decode(errors="replace")
    try:
        found = response.json()
    except ValueError:
        return body[:300]
    error = found.get("error", found.get("detail", found)) if isinstance(found, dict) else found
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:300]


def make_client(
    base_url: str, api_key: str | None, *, read_timeout: float, connect_timeout: float = 10.0
) -> "httpx2.Client":
    """An HTTP client for one endpoint; the key goes in the Authorization header and in no message."""
    import httpx2

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx2.Timeout(read_timeout, connect=connect_timeout)
    return httpx2.Client(base_url=base_url.rstrip("/") + "/", headers=headers, timeout=timeout)
