"""The generating side: take a chat's job, call the upstream, append every chunk to the chat's log."""
