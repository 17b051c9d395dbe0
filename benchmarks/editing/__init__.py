"""What editing directions achieve."""
