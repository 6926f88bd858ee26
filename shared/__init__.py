"""What API and worker have in common: the chat's record, the queue going in and the log coming out."""
