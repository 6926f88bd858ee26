"""The Responses surface: OpenAI's `/v1/responses` as a projection of chats and their logs. No I/O here."""
