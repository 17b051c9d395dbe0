"""Every name that a user can type, and what it stands for, as plain data. No torch."""
