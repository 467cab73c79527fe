"""What a checkpoint stores, and how it is packed, bit for bit. No torch."""
