"""What everything stands on: errors, the console, files, signals. No torch."""
