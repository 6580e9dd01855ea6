"""One server's addresses over HTTP: connections per thread, redirects, and answers of others than this program."""

from __future__ import annotations

import http.client
import math
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from atrous.errors import AtrousError, shown
from atrous.json_yaml import parse_json

#: Redirects that one request follows.
MOST_REDIRECTS = 5
#: Of these the request is sent again as it was; 303 asks for another one.
REDIRECTS = (301, 302, 307, 308)
#: Ports that are not written.
USUAL_PORTS = {"http": 80, "https": 443}
#: Characters that a path may hold as they are.
PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class Address:
    """An address of HTTP, without a query.

    Attributes:
        scheme: http or https.
        host: as it is looked up.
        port: 0–65535.
        path: before the addresses of this program, without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, text: str) -> Address:
        """The address in a text.

        Args:
            text: such as "http://127.0.0.1:8000", or with the path under which a proxy has the server.

        Raises:
            AtrousError: another scheme, no host, no such port, a user name, a query or a fragment.
        """
        if not isinstance(text, str):
            raise AtrousError(f"a server's address is text like http://127.0.0.1:8000, got {type(text).__name__}.")
        try:
            parts = urlsplit(text.strip())
            port, host = parts.port, (parts.hostname or "").encode("idna").decode()
        except ValueError as error:  # of UnicodeError, too
            raise AtrousError(f"'{text}' is no server's address: {error}. One is like http://127.0.0.1:8000.") from None
        if parts.scheme not in USUAL_PORTS or not host or re.search(r"[\s\x00-\x1f]", host):
            raise AtrousError(f"a server's address is like http://127.0.0.1:8000, got '{text}'.")
        if parts.username is not None or parts.password is not None:
            raise AtrousError("a server's address holds no user name or password: give the server's key as key=….")
        if parts.query or parts.fragment:
            raise AtrousError(f"a server's address has no query and no fragment, got '{text}'.")
        port = USUAL_PORTS[parts.scheme] if port is None else port
        return cls(parts.scheme, host, port, quote(parts.path.rstrip("/"), safe=PATH_CHARACTERS))

    @property
    def origin(self) -> str:
        """The address without its path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == USUAL_PORTS[self.scheme] else f":{self.port}")


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: of HTTP.
        content: the body.
        headers: by name, in any capitals.
        url: where it came from, after redirects.
    """

    status: int
    content: bytes
    headers: Any
    url: str

    def json(self) -> Any:
        """The content as JSON.

        Raises:
            AtrousError: it is something else, as a proxy or another program may send it.
        """
        try:
            return parse_json(self.content, self.url)
        except AtrousError:
            raise self.stranger("not JSON") from None

    def stranger(self, reason: str) -> AtrousError:
        """The error for an answer that no `atrous serve` gives.

        Args:
            reason: what is missing.
        """
        kind = self.headers.get("Content-Type", "no type").partition(";")[0][:60]
        return AtrousError(
            f"{self.url} answered {self.status} with {kind}, {reason}{_titled(self.content)}: this is no server of "
            "`atrous serve`, or a proxy answers for it. Give the address that the server printed when it started."
        )

    def detail(self) -> str:
        """The sentence in a problem; of another's error page its title."""
        with suppress(ValueError, KeyError, TypeError):
            return str(parse_json(self.content, self.url)["detail"])
        if self.content.lstrip()[:1] == b"<":
            return f"{self.url} answered with a page of a proxy or another program{_titled(self.content)}"
        return self.content.decode(errors="replace").strip()[:200] or "the server gave no reason"


class Connection:
    """Sends requests to one server, each thread and forked child over a connection of its own.

    Args:
        address: of the server.
        key: sent to it, and to no other that it redirects to; None for none.
        timeout: seconds without a byte.

    Raises:
        AtrousError: no address, a key that no header can hold, or a time that is no positive number.
    """

    def __init__(self, address: str, key: str | None, timeout: float) -> None:
        self.address = Address.of(address)
        if key is not None and not (isinstance(key, str) and re.fullmatch(r"[\x21-\x7e]*", key)):
            raise AtrousError(
                "a key is text of ASCII letters, digits and signs, without spaces and line ends: read from a file, it "
                "may end in a line end, which key.strip() removes."
            )
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not number or not 0 < timeout <= threading.TIMEOUT_MAX or not math.isfinite(timeout):
            raise AtrousError(f"timeout is a number of seconds above 0, got {shown(timeout)}.")
        self._timeout, self._own = timeout, threading.local()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, content: bytes | None = None, kind: str | None = None) -> Answer:
        """One request, and its answer.

        Args:
            method: GET or POST.
            path: after the server's own, with its query.
            content: the body.
            kind: its media type; None where it is left to the server to tell.

        Raises:
            AtrousError: redirected too often, to nowhere, or to another scheme.
            OSError: the server cannot be reached.
            http.client.HTTPException: its answer is no HTTP.
        """
        target, path = self.address, self.address.path + path
        followed = 0
        while True:
            answer = self._try(target, method, path, content, kind)
            if answer.status == 401 and self._headers and not self._trusts(target):
                raise AtrousError(
                    f"{self.address.origin} redirects to {target.origin}, which asks for a key; a key is not sent to "
                    f"another server than the one it was given for. Give {target.origin} as the address."
                )
            if answer.status not in (*REDIRECTS, 303):
                return answer
            if followed == MOST_REDIRECTS:
                raise AtrousError(f"{answer.url} redirects on, after {MOST_REDIRECTS} redirects: it goes in circles.")
            target, path = _redirected(answer)
            followed += 1

    def _trusts(self, target: Address) -> bool:
        """Whether the key may be sent there: to its own server, and to that server's usual port for https."""
        own = self.address
        if (target.scheme, target.host, target.port) == (own.scheme, own.host, own.port):
            return True
        safer = (own.scheme, own.port, target.scheme, target.port) == ("http", 80, "https", 443)
        return safer and target.host == own.host

    def _try(self, target: Address, method: str, path: str, content: bytes | None, kind: str | None) -> Answer:
        connection = self._connection(target)
        if connection.sock is not None:
            with suppress(ConnectionResetError, BrokenPipeError):  # closed meanwhile, which shows only now
                return self._exchange(connection, target, method, path, content, kind)
        return self._exchange(connection, target, method, path, content, kind)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        target: Address,
        method: str,
        path: str,
        content: bytes | None,
        kind: str | None,
    ) -> Answer:
        cut = False
        headers = {**({"Content-Type": kind} if kind else {}), **(self._headers if self._trusts(target) else {})}
        try:
            try:
                connection.request(method, path, content, headers)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:  # there was no connection
                    raise
                cut = True  # a server may refuse before it has the whole picture; what it said is there to be read
            response = connection.getresponse()
            answer = Answer(response.status, response.read(), response.headers, target.origin + path)
        except BaseException:  # what comes next on this connection would belong to this request
            connection.close()
            raise
        if cut:
            connection.close()
        return answer

    def _connection(self, target: Address) -> http.client.HTTPConnection:
        if getattr(self._own, "process", None) != os.getpid():  # none yet, or those that the parent goes on using
            self._own.process, self._own.connections = os.getpid(), {}
        connections: dict[str, http.client.HTTPConnection] = self._own.connections
        if target.origin not in connections:
            kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
            connections[target.origin] = kind(target.host, target.port, timeout=self._timeout)
        return connections[target.origin]


def _redirected(answer: Answer) -> tuple[Address, str]:
    """Where a redirect leads: the server, and the path with its query.

    Raises:
        AtrousError: nowhere, to another scheme than HTTP's, or with another method.
    """
    location = answer.headers.get("Location", "").strip()
    if answer.status == 303 or not location:
        reason = "without saying where to" if not location else "to a page, instead of an answer"
        raise AtrousError(
            f"{answer.url} redirects (HTTP {answer.status}) {reason}: this is no server of `atrous serve`."
        )
    try:
        parts = urlsplit(urljoin(answer.url, location))
        target = Address.of(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, AtrousError) as error:
        raise AtrousError(
            f"{answer.url} redirects to '{location[:200]}', which is not followed: only http and https are."
        ) from error
    path = quote(parts.path or "/", safe=PATH_CHARACTERS)
    return target, path + (f"?{quote(parts.query, safe=PATH_CHARACTERS + '?')}" if parts.query else "")


def _titled(content: bytes) -> str:
    """The title of a page of HTML, to be put after a sentence; nothing where it has none."""
    found = re.search(rb"<title[^>]*>([^<]{1,200})</title>", content[:4096], re.IGNORECASE)
    return f", titled '{' '.join(found[1].decode(errors='replace').split())[:100]}'" if found else ""
