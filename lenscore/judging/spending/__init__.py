"""What paid judges cost and may cost: prices, the terms of a run, and money reserved before a request is sent."""
