"""A mail server for the tests: TLS with a certificate of its own, one login, and what it was sent."""

import base64
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class MailServer:
    """Where it listens, the certificate to trust, and every mail taken with the credentials it came with."""

    port: int
    certificate: Path
    mails: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)


@contextmanager
def serve_mail(folder: Path) -> Iterator[MailServer]:
    """Speak SMTP over TLS (implicit, as on port 465) on localhost until the block ends."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    server = MailServer(listener.getsockname()[1], certificate)

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    _talk(secure, server)
            except OSError:
                continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _talk(connection: ssl.SSLSocket, server: MailServer) -> None:
    """The commands smtplib sends, in RFC 5321's words."""
    lines = connection.makefile("r", newline="\r\n")

    def say(text: str) -> None:
        connection.sendall(f"{text}\r\n".encode())

    say("220 ready")
    for line in lines:
        command = line.strip()
        match command.split(" ")[0].upper():
            case "EHLO":
                say("250-here")
                say("250 AUTH PLAIN")
            case "AUTH":
                server.logins.append(base64.b64decode(command.split(" ")[2]).decode())
                say("235 welcome")
            case "DATA":
                say("354 go on")
                body = []
                for text in lines:
                    if text == ".\r\n":
                        break
                    body.append(text)
                server.mails.append("".join(body))
                say("250 taken")
            case "QUIT":
                say("221 bye")
                return
            case _:
                say("250 fine")
