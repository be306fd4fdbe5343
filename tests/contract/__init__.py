"""What every integration promises, as tests that its test file inherits."""
