"""An OpenAI-compatible upstream over HTTP whose pace, answers and faults a request can script."""
