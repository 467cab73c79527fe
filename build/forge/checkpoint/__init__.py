"""Base and record in, checkpoint out: quantize, graft, dress."""
