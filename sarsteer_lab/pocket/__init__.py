"""The pocket model: a real Qwen2-Audio architecture in miniature, and everything that trains it."""
