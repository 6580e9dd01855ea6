"""HTTP connections of the client: one per thread, with redirects and checks that the server is `atrous serve`."""

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

#: Largest number of redirects of one request.
MOST_REDIRECTS = 5
#: Status codes after which the same request is sent to the new address. 303 is not among them, because it would change
#: the request to GET.
REDIRECTS = (301, 302, 307, 308)
#: Default port of each scheme.
USUAL_PORTS = {"http": 80, "https": 443}
#: Characters that are not percent-encoded in a path.
PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class Address:
    """An HTTP address without a query.

    Attributes:
        scheme: http or https.
        host: host name in its ASCII form (IDNA), or IP address.
        port: port, 0–65535.
        path: prefix of all paths of the server, without a slash at its end; "" for no prefix.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, text: str) -> Address:
        """Parses an address.

        Args:
            text: address such as "http://127.0.0.1:8000". It may end in a path, for a server behind a proxy.

        Raises:
            AtrousError: the scheme is not http or https, the host is missing, the port is invalid, or the address has a
                user name, a query or a fragment.
        """
        if not isinstance(text, str):
            raise AtrousError(f"a server's address must be text like http://127.0.0.1:8000, got {type(text).__name__}.")
        try:
            parts = urlsplit(text.strip())
            port, host = parts.port, (parts.hostname or "").encode("idna").decode()
        except ValueError as error:  # also UnicodeError
            raise AtrousError(
                f"'{text}' is not the address of a server: {error}. Give an address like http://127.0.0.1:8000."
            ) from None
        if parts.scheme not in USUAL_PORTS or not host or re.search(r"[\s\x00-\x1f]", host):
            raise AtrousError(f"a server's address must look like http://127.0.0.1:8000, got '{text}'.")
        if parts.username is not None or parts.password is not None:
            raise AtrousError(
                "a server's address must contain no user name or password: give the server's key as key=…."
            )
        if parts.query or parts.fragment:
            raise AtrousError(f"a server's address must have no query and no fragment, got '{text}'.")
        port = USUAL_PORTS[parts.scheme] if port is None else port
        return cls(parts.scheme, host, port, quote(parts.path.rstrip("/"), safe=PATH_CHARACTERS))

    @property
    def origin(self) -> str:
        """The address without its path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == USUAL_PORTS[self.scheme] else f":{self.port}")


@dataclass(frozen=True)
class Answer:
    """A response of a server.

    Attributes:
        status: HTTP status code.
        content: body of the response.
        headers: headers by name; the names are case-insensitive.
        url: address of the request, after redirects.
    """

    status: int
    content: bytes
    headers: Any
    url: str

    def json(self) -> Any:
        """Returns the content, parsed as JSON.

        Raises:
            AtrousError: the content is not JSON, probably because a proxy or another program sent the response.
        """
        try:
            return parse_json(self.content, self.url)
        except AtrousError:
            raise self.stranger("not JSON") from None

    def stranger(self, reason: str) -> AtrousError:
        """Returns the error for a response that does not come from `atrous serve`.

        Args:
            reason: difference from a response of `atrous serve`, as a phrase such as "not JSON".
        """
        kind = self.headers.get("Content-Type", "no type").partition(";")[0][:60]
        return AtrousError(
            f"{self.url} answered {self.status} with {kind}, {reason}{_titled(self.content)}: this is not a "
            "server of `atrous serve`, or a proxy sent the response. Give the address that the server printed when it "
            "started."
        )

    def detail(self) -> str:
        """Returns the reason for an error: the response's detail, an HTML page's title, or the first 200 characters."""
        with suppress(ValueError, KeyError, TypeError):
            return str(parse_json(self.content, self.url)["detail"])
        if self.content.lstrip()[:1] == b"<":
            return f"{self.url} answered with a page of a proxy or another program{_titled(self.content)}"
        return self.content.decode(errors="replace").strip()[:200] or "the server gave no reason"


class Connection:
    """Sends requests to one server; each thread and each forked child has its own connection.

    Args:
        address: address of the server.
        key: key of the server; None for no key. After a redirect, it is not sent to another server.
        timeout: longest time, in seconds, in which a request receives no byte.

    Raises:
        AtrousError: the address is invalid, the key cannot be sent in a header, or the timeout is not above 0.
    """

    def __init__(self, address: str, key: str | None, timeout: float) -> None:
        self.address = Address.of(address)
        if key is not None and not (isinstance(key, str) and re.fullmatch(r"[\x21-\x7e]*", key)):
            raise AtrousError(
                "a key must consist of ASCII letters, digits and punctuation, without spaces and line breaks. A key "
                "that was read from a file may end in a line break; key.strip() removes it."
            )
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not number or not 0 < timeout <= threading.TIMEOUT_MAX or not math.isfinite(timeout):
            raise AtrousError(f"timeout must be a number of seconds above 0, got {shown(timeout)}.")
        self._timeout, self._own = timeout, threading.local()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, content: bytes | None = None, kind: str | None = None) -> Answer:
        """Sends a request and returns the response.

        Args:
            method: GET or POST.
            path: path and query, to be appended to the path of the server's address.
            content: body of the request.
            kind: media type of the body; None to let the server detect it.

        Raises:
            AtrousError: there are too many redirects, a redirect has no target or a target that is not HTTP, or a
                redirect leads to another server that needs a key.
            OSError: the server cannot be reached.
            http.client.HTTPException: the response is not HTTP.
        """
        target, path = self.address, self.address.path + path
        followed = 0
        while True:
            answer = self._try(target, method, path, content, kind)
            if answer.status == 401 and self._headers and not self._trusts(target):
                raise AtrousError(
                    f"{self.address.origin} redirects to {target.origin}, which needs a key; the key is sent only to "
                    f"the server whose address you gave. Give {target.origin} as the address."
                )
            if answer.status not in (*REDIRECTS, 303):
                return answer
            if followed == MOST_REDIRECTS:
                raise AtrousError(
                    f"{answer.url} redirects again after {MOST_REDIRECTS} redirects: they probably form a loop."
                )
            target, path = _redirected(answer)
            followed += 1

    def _trusts(self, target: Address) -> bool:
        """Returns whether a target may get the key: if it is the server itself, or the same host with https, not http.

        The second case holds only for the default ports, 80 and 443.
        """
        own = self.address
        if (target.scheme, target.host, target.port) == (own.scheme, own.host, own.port):
            return True
        safer = (own.scheme, own.port, target.scheme, target.port) == ("http", 80, "https", 443)
        return safer and target.host == own.host

    def _try(self, target: Address, method: str, path: str, content: bytes | None, kind: str | None) -> Answer:
        connection = self._connection(target)
        if connection.sock is not None:
            with suppress(ConnectionResetError, BrokenPipeError):  # the server has closed the idle connection
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
                if connection.sock is None:  # the connection was never opened
                    raise
                cut = True  # a server may refuse a picture after it received a part; its response can still be read
            response = connection.getresponse()
            answer = Answer(response.status, response.read(), response.headers, target.origin + path)
        except BaseException:  # a later response on this connection could belong to this request
            connection.close()
            raise
        if cut:
            connection.close()
        return answer

    def _connection(self, target: Address) -> http.client.HTTPConnection:
        # The thread has no connections yet, or only connections of the parent process.
        if getattr(self._own, "process", None) != os.getpid():
            self._own.process, self._own.connections = os.getpid(), {}
        connections: dict[str, http.client.HTTPConnection] = self._own.connections
        if target.origin not in connections:
            kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
            connections[target.origin] = kind(target.host, target.port, timeout=self._timeout)
        return connections[target.origin]


def _redirected(answer: Answer) -> tuple[Address, str]:
    """Returns the target of a redirect: the server, and the path with its query.

    Raises:
        AtrousError: the redirect has no target, a target that is not http or https, or the status 303.
    """
    location = answer.headers.get("Location", "").strip()
    if answer.status == 303 or not location:
        reason = "without a Location header" if not location else "to another page instead of sending a response"
        raise AtrousError(
            f"{answer.url} redirects (HTTP {answer.status}) {reason}: this is not a server of `atrous serve`."
        )
    try:
        parts = urlsplit(urljoin(answer.url, location))
        target = Address.of(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, AtrousError) as error:
        raise AtrousError(
            f"{answer.url} redirects to '{location[:200]}', which is not followed: only http and https are allowed."
        ) from error
    path = quote(parts.path or "/", safe=PATH_CHARACTERS)
    return target, path + (f"?{quote(parts.query, safe=PATH_CHARACTERS + '?')}" if parts.query else "")


def _titled(content: bytes) -> str:
    """Returns the title of an HTML page, as a phrase to append to a sentence; "" if it has no title."""
    found = re.search(rb"<title[^>]*>([^<]{1,200})</title>", content[:4096], re.IGNORECASE)
    return f", titled '{' '.join(found[1].decode(errors='replace').split())[:100]}'" if found else ""
