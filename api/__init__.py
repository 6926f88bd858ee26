"""The HTTP side: admit a chat, enqueue it, and deliver its log as Server-Sent Events."""
