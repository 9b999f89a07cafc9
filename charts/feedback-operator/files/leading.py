"""Waits until one of the operator's replicas says that it leads; ends with 1 where none does in time."""

import os
import socket
import sys
import time
import urllib.request

host, port = os.environ["METRICS_HOST"], int(os.environ["METRICS_PORT"])
deadline = time.monotonic() + float(os.environ["PATIENCE_SECONDS"])
seen = "nothing was reached"
while time.monotonic() < deadline:
    try:
        addresses = sorted({found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        for address in addresses:
            bracketed = f"[{address}]" if ":" in address else address
            with urllib.request.urlopen(f"http://{bracketed}:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            if "feedback_operator_leading 1.0" in lines:
                print(f"{address} leads")
                sys.exit(0)
        seen = f"none of {', '.join(addresses)} leads"
    except OSError as error:
        seen = f"{host}:{port}: {error}"
    time.sleep(1)
sys.exit(f"{seen}; see kubectl logs of the operator's pods")
