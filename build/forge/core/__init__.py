"""What every room stands on: errors, canonical JSON, the store, the checkout, the machine."""
