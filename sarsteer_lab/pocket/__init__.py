"""The pocket model, a real Qwen2-Audio architecture in miniature: base weights, assembly, dials."""
