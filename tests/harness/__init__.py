"""What contract and integration tests stand on: real processes, an independent SSE client, and polling."""
