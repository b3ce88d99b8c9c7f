"""What tests share: encoders, models, memories, fixtures."""
