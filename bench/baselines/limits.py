"""The one setting of the SDK's that a server needs: as many connections to the upstream as it has chats."""

import httpx2

CONNECTIONS = httpx2.Limits(max_connections=10_000, max_keepalive_connections=10_000)
