"""What writes and what is written: the output layer, the decoder half, generation, and chat templates."""
