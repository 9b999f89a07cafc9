"""Models behind an OpenAI-compatible API: asked by OpenAI's own client, answered once, paid for within limits.

`client.py` sends one request and says what trouble is; `asking.py` has many under way and keeps what comes; `ledger.py`
counts what was paid, `kept.py` keeps replies beside artifacts, `replies.py` reads them.
"""
