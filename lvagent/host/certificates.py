"""What can be told of the agent's certificate without a library for certificates: a handshake with ourselves.

OpenSSL gives the fields of a certificate only after it was verified. So a server with this certificate and a client
that trusts just it shake hands in memory; no byte leaves the process.
"""

from __future__ import annotations

import ssl


def expires_at(context: ssl.SSLContext, cert: str) -> float:
    """When the certificate of a server's context ends (Unix time).

    :param context: a server's; one that asks for clients' certificates too.
    :param cert: the PEM file of its certificate.
    :raise ssl.SSLError: it is not valid now; or the two do not agree.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cafile=cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                if side is asking:
                    raise
        found = asking.getpeercert() if asking.version() else None
        if found:
            return ssl.cert_time_to_seconds(str(found["notAfter"]))
    raise ssl.SSLError("the handshake does not end")
