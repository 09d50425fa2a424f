"""What a model sees: features and targets of several assets on one clock, divided by time."""
